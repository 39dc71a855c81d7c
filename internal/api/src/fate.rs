//! Whether the table of a purged sink goes, or stays because another sink writes to it.
//!
//! Decided while the table is marked ([`stream_state::Store::mark_table`]): no sink can be stored with it then, and this
//! process looks only when it has seen the revision of the mark, and with it every sink that was stored before. A sink that
//! is created at the same moment is one of those, or it is refused.

use std::time::Duration;

use stream_model::SinkKey;
use stream_model::definition::TablePlace;
use stream_model::purge::Dropping;
use stream_state::{Mirror, StateError, Store, Topology};
use stream_target::Fate;
use tracing::info;

/// How long it may take until this process has seen a mark.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Marks the table of a sink, of which that is the revision, and says what becomes of it. When that is done, or the table stays,
/// the mark is to go. After an error it may be there, for the same sink only: the next try finds that.
pub(crate) async fn decide(
    state: &Store,
    mirror: &Mirror,
    dropping: &Dropping,
    revision: i64,
) -> Result<Fate, StateError> {
    let marked = state.mark_table(dropping, revision).await?;
    let reached = tokio::time::timeout(SEEN_WITHIN, mirror.reached(marked)).await;
    reached.map_err(|_| StateError::Unavailable {
        reason: "this process has not seen the newest sinks".to_owned(),
    })?;
    let place = dropping.place();
    if mirror.read(|topology| is_shared(topology, &dropping.sink, &place)) {
        let (sink, table) = (&dropping.sink, &dropping.table_id);
        info!(%sink, table, "table is kept, another sink writes to it");
        return Ok(Fate::Kept);
    }
    Ok(Fate::Dropped)
}

/// Whether another sink writes to the same table that is not purged itself. A deleted one may come back.
fn is_shared(topology: &Topology, own: &SinkKey, place: &TablePlace) -> bool {
    let sinks = (topology.sources.values()).flat_map(|source| source.sinks.values());
    let sinks = sinks.filter_map(|node| node.sink.as_ref());
    let mut others = sinks
        .map(|sink| &sink.value)
        .filter(|sink| sink.key != *own);
    others.any(|other| other.purging.is_none() && other.table.place(&other.key) == *place)
}
