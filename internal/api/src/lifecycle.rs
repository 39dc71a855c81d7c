//! What disabling, enabling, deleting and reviving do to a source with its sinks, and to a sink alone.
//!
//! Pure: from definitions to definitions. Each change makes a new version of everything it touches, whose description says
//! what happened.
//!
//! | change of a source | its sinks |
//! |---|---|
//! | disabled | enabled ones are disabled along with it |
//! | enabled | those that were disabled along with it are enabled; those that somebody disabled stay so |
//! | undeleted | those that were deleted along with it are undeleted |
//!
//! Invariants:
//!
//! * what was asked for on its own survives the way back of its parent ([`Switch::directly`]);
//! * a change that changes nothing makes no version, so that repeating a request is harmless;
//! * content (name, table, settings) is never touched, so slices of the version before need no other mapping than theirs.

use stream_model::definition::sink::Switch;
use stream_model::definition::{Sink, Source, Stamp, Version};

use crate::content::{of_sink, of_source};

/// Whether an entity takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It does.
    On,
    /// It does not.
    Off,
}

impl Turn {
    const fn description(self) -> &'static str {
        match self {
            Self::On => "Enabled.",
            Self::Off => "Disabled.",
        }
    }
}

/// Disables or enables a source, and its sinks as the table above says.
pub(crate) fn turn_source(
    mut source: Source,
    mut sinks: Vec<Sink>,
    turn: Turn,
    stamp: &Stamp,
) -> (Source, Vec<Sink>) {
    let changed = switch(&mut source.disabled, turn, stamp, Asked::Directly);
    if changed {
        let version = next(&source.version, turn.description().to_owned(), stamp);
        source.version = of_source(&source).version(version);
    }
    for sink in sinks.iter_mut().filter(|sink| sink.deleted.is_none()) {
        *sink = turned(sink.clone(), turn, stamp, Asked::ByParent);
    }
    (source, sinks)
}

/// Disables or enables one sink.
pub(crate) fn turn_sink(sink: Sink, turn: Turn, stamp: &Stamp) -> Sink {
    turned(sink, turn, stamp, Asked::Directly)
}

fn turned(mut sink: Sink, turn: Turn, stamp: &Stamp, asked: Asked) -> Sink {
    if switch(&mut sink.disabled, turn, stamp, asked) {
        let version = next(&sink.version, turn.description().to_owned(), stamp);
        sink.version = of_sink(&sink).version(version);
    }
    sink
}

/// Revives a deleted source, and the sinks that were deleted along with it.
pub(crate) fn undelete_source(
    mut source: Source,
    mut sinks: Vec<Sink>,
    stamp: &Stamp,
) -> (Source, Vec<Sink>) {
    source.deleted = None;
    let version = next(&source.version, undeleted(&source.version), stamp);
    source.version = of_source(&source).version(version);
    for sink in &mut sinks {
        if sink.deleted.as_ref().is_some_and(|it| !it.directly) {
            *sink = undelete_sink(sink.clone(), stamp);
        }
    }
    (source, sinks)
}

/// Revives a deleted sink.
pub(crate) fn undelete_sink(mut sink: Sink, stamp: &Stamp) -> Sink {
    sink.deleted = None;
    let version = next(&sink.version, undeleted(&sink.version), stamp);
    sink.version = of_sink(&sink).version(version);
    sink
}

fn undeleted(version: &Version) -> String {
    format!("Undeleted to version \"{}\".", version.number)
}

/// Who asked for a change of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Somebody, for this one.
    Directly,
    /// Somebody, for its parent.
    ByParent,
}

/// Changes a switch. Returns whether that makes a difference.
fn switch(disabled: &mut Option<Switch>, turn: Turn, stamp: &Stamp, asked: Asked) -> bool {
    let directly = asked == Asked::Directly;
    let changes = match (turn, disabled.as_ref()) {
        // Disabled along with its source, and now for itself: it stays disabled when the source comes back.
        (Turn::Off, Some(switch)) => directly && !switch.directly,
        (Turn::On, Some(switch)) => directly || !switch.directly,
        (Turn::Off, None) => true,
        (Turn::On, None) => false,
    };
    if changes {
        *disabled = (turn == Turn::Off).then(|| Switch {
            stamp: stamp.clone(),
            directly,
        });
    }
    changes
}

/// The version after `old`, with its hash still to be made.
fn next(old: &Version, description: String, stamp: &Stamp) -> Version {
    Version {
        number: old.number + 1,
        hash: String::new(),
        description,
        at: stamp.at,
        by: stamp.by.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::definitions::{sink, source, stamp};

    /// What an operator may do, in any order.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Source(Turn),
        Sink(usize, Turn),
    }

    fn step() -> impl Strategy<Value = Step> {
        let turn = prop_oneof![Just(Turn::On), Just(Turn::Off)];
        prop_oneof![
            turn.clone().prop_map(Step::Source),
            (0..3_usize, turn).prop_map(|(sink, turn)| Step::Sink(sink, turn)),
        ]
    }

    proptest! {
        /// Off and on again, a source finds its sinks as they were.
        #[test]
        fn a_source_gives_back_what_it_took_along(steps in prop::collection::vec(step(), 0..20)) {
            let mut current = (source("a"), vec![sink("x"), sink("y"), sink("z")]);
            for (at, step) in steps.into_iter().enumerate() {
                let stamp = stamp(at);
                match step {
                    Step::Source(turn) => current = turn_source(current.0, current.1, turn, &stamp),
                    Step::Sink(of, turn) => current.1[of] = turn_sink(current.1[of].clone(), turn, &stamp),
                }
            }
            let enabled = |sinks: &[Sink]| sinks.iter().map(Sink::is_enabled).collect::<Vec<_>>();
            let on = turn_source(current.0, current.1, Turn::On, &stamp(100));
            let before = enabled(&on.1);
            let off = turn_source(on.0, on.1, Turn::Off, &stamp(101));
            prop_assert_eq!(enabled(&off.1), [false; 3]);
            let again = turn_source(off.0, off.1, Turn::On, &stamp(102));
            prop_assert_eq!(enabled(&again.1), before);
            prop_assert!(again.0.is_enabled());
        }
    }

    #[test]
    fn what_was_disabled_for_itself_stays_so() {
        let own = turn_sink(sink("x"), Turn::Off, &stamp(1));
        let (source, sinks) = turn_source(source("a"), vec![own, sink("y")], Turn::Off, &stamp(2));
        assert_eq!(sinks[0].disabled.as_ref().map(|it| it.directly), Some(true));
        // Disabled along, and then for itself.
        let both = turn_sink(sinks[1].clone(), Turn::Off, &stamp(3));
        let (_, sinks) = turn_source(source, vec![sinks[0].clone(), both], Turn::On, &stamp(4));
        assert!(sinks.iter().all(|sink| !sink.is_enabled()));
    }

    #[test]
    fn a_change_makes_one_version_and_a_repeated_one_none() {
        let first = turn_source(source("a"), vec![sink("x")], Turn::Off, &stamp(1));
        assert_eq!(first.0.version.number, 2);
        assert_eq!(first.0.version.description, "Disabled.");
        assert_eq!(first.0.version.at, stamp(1).at);
        assert_eq!(first.1[0].version.number, 2);
        let again = turn_source(first.0.clone(), first.1.clone(), Turn::Off, &stamp(2));
        assert_eq!(again, first);
    }

    #[test]
    fn undeleting_revives_only_what_went_along() {
        let mut gone = source("a");
        let deleted = |directly| {
            Some(Switch {
                stamp: stamp(1),
                directly,
            })
        };
        gone.deleted = deleted(true);
        let (mut own, mut along) = (sink("x"), sink("y"));
        (own.deleted, along.deleted) = (deleted(true), deleted(false));
        along.disabled = deleted(true);
        let (back, sinks) = undelete_source(gone, vec![own.clone(), along], &stamp(2));
        assert!(back.deleted.is_none() && sinks[1].deleted.is_none());
        assert_eq!(back.version.description, "Undeleted to version \"1\".");
        assert_eq!(sinks[0], own);
        assert!(sinks[1].disabled.is_some(), "still disabled");
        assert_eq!(sinks[1].version.number, 2);
    }

    /// Equal content has an equal hash, however it came about.
    #[test]
    fn the_hash_is_that_of_the_content() {
        let original = of_sink(&sink("x")).version(sink("x").version);
        let (_, sinks) = turn_source(source("a"), vec![sink("x")], Turn::Off, &stamp(1));
        assert_eq!(sinks[0].version.hash, original.hash);
    }
}
