//! `volume forget ID [confirm]`: gives up a volume whose disk is gone for good.
//!
//! Without `confirm` it only says what would be lost. The volume need not be here; the state is where the configuration says.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use stream_model::time::SystemClock;
use stream_model::{Clock, NodeId, VolumeId};
use stream_state::Loss;

use crate::config::Config;
use crate::state;

/// A volume to give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    volume: VolumeId,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Do,
}

/// Reads the words after `volume forget`.
///
/// # Errors
/// When they are not an identifier, and `confirm` or nothing.
pub fn parse(words: &[&str]) -> anyhow::Result<Forget> {
    let (id, mode) = match words {
        [id] => (id, Mode::Look),
        [id, "confirm"] => (id, Mode::Do),
        _ => {
            return Err(anyhow!(
                "it is \"volume forget ID\", and with \"confirm\" behind it to do it"
            ));
        }
    };
    let volume = id.parse().map_err(|_| {
        anyhow!("{id:?} is not the identifier of a volume: 32 hexadecimal digits, as in \"state dump\" and in the file volume-id")
    })?;
    Ok(Forget { volume, mode })
}

/// Says what would be lost, or gives the volume up.
///
/// # Errors
/// When the volume is unknown or open, or the state cannot be reached.
pub async fn run(config: &Config, forget: Forget) -> anyhow::Result<ExitCode> {
    let node: NodeId = config.node_id.parse()?;
    let Forget { volume, mode } = forget;
    let loss = state::with_store(config, async |store| match mode {
        Mode::Look => store.loss_of_volume(volume).await,
        Mode::Do => store.forget_volume(volume, &node, SystemClock.now()).await,
    });
    let loss = Box::pin(loss).await?;
    let text = match mode {
        Mode::Look if loss.last.is_none() => {
            return Err(anyhow!("volume {volume} was never opened with this state"));
        }
        Mode::Look => preview(volume, &loss),
        Mode::Do => format!("Volume {volume} is forgotten.\n{}", told(&loss)),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn preview(volume: VolumeId, loss: &Loss) -> String {
    let mut text = format!("Forgetting volume {volume} would lose:\n{}", told(loss));
    if let Some(last) = &loss.last {
        let _ = writeln!(
            text,
            "  opened last by node {}, {} times in all",
            last.node, last.number
        );
    }
    text.push_str(
        "A writer that still has it, but is cut off from the state, acknowledges records until it hears of this, and they are \
         lost: stop it first.\n",
    );
    let _ = writeln!(
        text,
        "Nothing was changed. If its disk is gone for good: stream-service volume forget {volume} confirm"
    );
    text
}

fn told(loss: &Loss) -> String {
    let mut text = String::new();
    let open = loss.slices - loss.sealed;
    let _ = writeln!(
        text,
        "  {} rows in {} sealed slices",
        loss.rows, loss.sealed
    );
    let _ = writeln!(
        text,
        "  an unknown number of rows in {open} slices that were not sealed"
    );
    for source in &loss.sources {
        let _ = writeln!(text, "  source {source} gets other volumes");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_identifier_is_taken_and_nothing_is_done_without_confirmation() {
        let id = "01900000000070008000000000000001";
        assert_eq!(parse(&[id]).expect("a look").mode, Mode::Look);
        assert_eq!(parse(&[id, "confirm"]).expect("an order").mode, Mode::Do);
        for words in [
            &[][..],
            &["default/local"],
            &[id, "yes"],
            &[id, "confirm", "x"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
