//! Where records are, as their senders are told: `sink=slice:seq`, for each sink that holds them.
//!
//! All records of a batch have the same position, so the text is made once for a batch. Slice and number are those of the
//! append protocol: with them a record can be followed to the target.

use std::sync::OnceLock;

use hyper::header::HeaderValue;
use stream_model::SinkId;

use crate::batch::{Outlet, Place};
use crate::mapper::Rejection;
use crate::route::Plan;

/// A longer header would be more than some clients read. It is left out then.
const MAX_BYTES: usize = 4 << 10;

/// The places of the parts of a batch.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// The places of the parts.
    places: Vec<(Outlet, Place)>,
    /// For a record that no sink refuses.
    of_all: OnceLock<Option<HeaderValue>>,
}

impl Positions {
    /// The places of a batch.
    pub fn new(places: Vec<(Outlet, Place)>) -> Self {
        Self {
            places,
            of_all: OnceLock::new(),
        }
    }

    /// The position of a record with these refusals. None: no sink holds it, or there are too many to name.
    pub fn of(&self, plan: &Plan, rejections: &[Rejection]) -> Option<HeaderValue> {
        if rejections.is_empty() {
            return self.of_all.get_or_init(|| self.text(plan, &[])).clone();
        }
        self.text(plan, rejections)
    }

    /// Where the rejected record is kept for the sinks that refuse it. None: no sink does, or there are too many to name.
    pub fn of_rejected(&self, plan: &Plan, rejections: &[Rejection]) -> Option<HeaderValue> {
        let named = self.places.iter().filter_map(|(outlet, place)| {
            let Outlet::Rejects(sink) = outlet else {
                return None;
            };
            let refuses = rejections.iter().any(|rejection| rejection.sink == *sink);
            refuses.then_some((&plan.sinks.get(*sink)?.sink, place))
        });
        join(named.map(written))
    }

    fn text(&self, plan: &Plan, rejections: &[Rejection]) -> Option<HeaderValue> {
        let named = self.places.iter().filter_map(|(outlet, place)| {
            let Outlet::Rows(sink) = outlet else {
                return None;
            };
            let holds = !rejections.iter().any(|rejection| rejection.sink == *sink);
            holds.then_some((&plan.sinks.get(*sink)?.sink, place))
        });
        join(named.map(written))
    }
}

fn written((sink, place): (&SinkId, &Place)) -> String {
    format!("{sink}={}:{}", place.slice, place.seq)
}

/// One header of several positions, each once.
pub(crate) fn union(positions: impl Iterator<Item = HeaderValue>) -> Option<HeaderValue> {
    let mut distinct: Vec<String> = Vec::new();
    for position in positions {
        let text = position.to_str().unwrap_or_default();
        for one in text.split(", ").filter(|one| !one.is_empty()) {
            if distinct.iter().any(|known| known == one) {
                continue;
            }
            if distinct.len() * one.len() > MAX_BYTES {
                return None;
            }
            distinct.push(one.to_owned());
        }
    }
    join(distinct.into_iter())
}

fn join(texts: impl Iterator<Item = String>) -> Option<HeaderValue> {
    let text = texts.collect::<Vec<_>>().join(", ");
    if text.is_empty() || text.len() > MAX_BYTES {
        return None;
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use stream_encoding::MapError;

    use super::*;
    use crate::testing::{body_sink, slice};

    fn plan(sinks: usize) -> Plan {
        Plan::new(
            (0..sinks)
                .map(|sink| body_sink(&format!("sink-{sink}"), 1))
                .collect(),
        )
    }

    fn place(id: u8, seq: u64) -> Place {
        Place {
            slice: slice(id),
            seq,
        }
    }

    fn positions(sinks: u8) -> Positions {
        let places = (0..sinks).map(|sink| {
            let outlet = Outlet::Rows(usize::from(sink));
            (outlet, place(sink, u64::from(sink) + 1))
        });
        Positions::new(places.collect())
    }

    #[test]
    fn sinks_that_refuse_the_record_are_left_out() {
        let (plan, positions) = (plan(2), positions(2));
        let refusal = |sink| Rejection {
            sink,
            error: MapError::RowTooLong { limit: 1 },
        };
        let (first, second) = (
            format!("sink-0={}:1", slice(0)),
            format!("sink-1={}:2", slice(1)),
        );
        let both = format!("{first}, {second}");
        for (rejections, expected) in [
            (vec![], Some(both.clone())),
            (vec![refusal(0)], Some(second)),
            (vec![refusal(1)], Some(first)),
            (vec![refusal(0), refusal(1)], None),
            // The text for all is not overwritten by one with refusals.
            (vec![], Some(both)),
        ] {
            let text = positions.of(&plan, &rejections);
            assert_eq!(
                text,
                expected.map(|text| HeaderValue::try_from(text).expect("valid"))
            );
        }
    }

    #[test]
    fn positions_of_several_batches_are_named_once_each() {
        let of = |places| Positions::new(places).of(&plan(1), &[]).expect("named");
        let (one, two) = (
            of(vec![(Outlet::Rows(0), place(1, 7))]),
            of(vec![(Outlet::Rows(0), place(1, 8))]),
        );
        let expected = format!("sink-0={0}:7, sink-0={0}:8", slice(1));
        let all = union([one.clone(), one, two.clone(), two].into_iter());
        assert_eq!(all, Some(HeaderValue::try_from(expected).expect("valid")));
        assert_eq!(union(std::iter::empty()), None);
    }

    #[test]
    fn a_rejected_record_is_where_the_sinks_that_refuse_it_keep_it() {
        let places = [
            (Outlet::Rows(0), place(1, 5)),
            (Outlet::Rejects(0), place(2, 6)),
            (Outlet::Rejects(1), place(3, 7)),
        ];
        let (plan, positions) = (plan(3), Positions::new(places.to_vec()));
        let refusal = |sink| Rejection {
            sink,
            error: MapError::RowTooLong { limit: 1 },
        };
        let named = |text: String| HeaderValue::try_from(text).expect("valid");
        let of = |refusals: &[Rejection]| positions.of_rejected(&plan, refusals);
        assert_eq!(of(&[]), None);
        let second = format!("sink-1={}:7", slice(3));
        assert_eq!(of(&[refusal(1)]), Some(named(second.clone())));
        let both = format!("sink-0={}:6, {second}", slice(2));
        // The third has no slice for them.
        let all = [refusal(0), refusal(1), refusal(2)];
        assert_eq!(of(&all), Some(named(both)));
        let rows = format!("sink-0={}:5", slice(1));
        assert_eq!(positions.of(&plan, &[]), Some(named(rows)));
    }

    #[test]
    fn too_many_are_not_named() {
        assert!(positions(60).of(&plan(60), &[]).is_some());
        assert_eq!(positions(100).of(&plan(100), &[]), None);
        let many = (0..200).map(|seq| {
            Positions::new(vec![(Outlet::Rows(0), place(1, seq))])
                .of(&plan(1), &[])
                .expect("named")
        });
        assert_eq!(union(many), None);
    }
}
