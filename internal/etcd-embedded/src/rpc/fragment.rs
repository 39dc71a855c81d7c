//! One watch response as several, each small enough to be received.
//!
//! A response holds whole revisions, however large. A client that asked for fragments gets a large one in pieces, of which
//! all but the last say that more follows. An event is never split.

use std::collections::VecDeque;

use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchResponse};

/// A fragment is smaller, unless it holds one event only. As in etcd: its limit of a request and what a message adds to it.
const FRAGMENT_BYTES: usize = (1_536 + 512) << 10;
/// What a response, and what each event, has beside keys and values, at most.
const OVERHEAD: usize = 160;

/// Splits the response; what fits is answered as it is.
pub(super) fn split(response: PbWatchResponse) -> VecDeque<PbWatchResponse> {
    let mut fragments = VecDeque::new();
    let mut events = Vec::new();
    let mut bytes = OVERHEAD;
    let rest = PbWatchResponse {
        events: Vec::new(),
        ..response
    };
    for event in response.events {
        let size = size(&event);
        if !events.is_empty() && bytes + size >= FRAGMENT_BYTES {
            fragments.push_back(PbWatchResponse {
                events: std::mem::take(&mut events),
                fragment: true,
                ..rest.clone()
            });
            bytes = OVERHEAD;
        }
        bytes += size;
        events.push(event);
    }
    fragments.push_back(PbWatchResponse { events, ..rest });
    fragments
}

fn size(event: &PbEvent) -> usize {
    let of_pair = |pair: &PbKeyValue| pair.key.len() + pair.value.len();
    OVERHEAD + event.kv.as_ref().map_or(0, of_pair) + event.prev_kv.as_ref().map_or(0, of_pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(sizes: &[usize]) -> PbWatchResponse {
        let event = |size: &usize| PbEvent {
            prev_kv: Some(PbKeyValue {
                value: vec![0; *size],
                ..PbKeyValue::default()
            }),
            ..PbEvent::default()
        };
        PbWatchResponse {
            watch_id: 7,
            events: sizes.iter().map(event).collect(),
            ..PbWatchResponse::default()
        }
    }

    fn shape(sizes: &[usize]) -> Vec<(usize, bool)> {
        let fragments = split(response(sizes));
        assert!(fragments.iter().all(|fragment| fragment.watch_id == 7));
        fragments
            .iter()
            .map(|fragment| (fragment.events.len(), fragment.fragment))
            .collect()
    }

    #[test]
    fn all_fragments_but_the_last_announce_another() {
        const MIB: usize = 1 << 20;
        assert_eq!(shape(&[]), [(0, false)]);
        assert_eq!(shape(&[10, 10]), [(2, false)]);
        assert_eq!(shape(&[3 * MIB]), [(1, false)]);
        assert_eq!(shape(&[3 * MIB, 1]), [(1, true), (1, false)]);
        assert_eq!(
            shape(&[MIB / 2, MIB, MIB, MIB / 2, MIB / 4]),
            [(2, true), (3, false)]
        );
    }
}
