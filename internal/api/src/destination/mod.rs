//! What sinks have in projects: made before a sink is stored, given back when it is gone.
//!
//! ```text
//! begin (record) ─ bucket ─ table ─ token ─ file ─▶ the sink is stored ─▶ settle: installed, what it replaces given back
//!                         any failure, or a crash ────────────────────────▶ settle: all of it undone
//! ```
//!
//! Settling looks at the sink as it is, and is the same whether the change succeeded, failed or was cut off: a sink that lives
//! with that table gets the new destination, in every other case what was made is removed. The record of the change holds the
//! token of whoever asked, sealed, because nobody else may remove things in the project; it is gone with the record.
//!
//! Invariants:
//!
//! - Nothing is made in a project before the state has a record that tells of it.
//! - A table or bucket is removed only by the change that made it, and only while nobody has put anything into it.
//! - Credentials are stored sealed, each bound to its key of the state.
//!
//! It refuses to import anything.

mod leftovers;
mod making;
mod settling;

use std::pin::Pin;
use std::sync::Arc;

use stream_model::definition::{Sink, Table, TableKind};
use stream_model::destination::{Origin, Provisioning, Sealed};
use stream_model::{Clock, Secret, SinkKey};
use stream_state::keyspace::Key;
use stream_state::{Mirror, Store, Versioned};
use stream_target::keboola::{Custody, CustodyError, StorageApi};
use tracing::warn;

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::token::random_text;

pub(crate) use leftovers::settle_leftovers;

/// Length of the text that is part of the names of all that a change makes.
const MARK_LEN: usize = 16;

/// Makes and gives back what sinks have in projects.
pub(crate) struct Destinations {
    storage_api: StorageApi,
    custody: Custody,
    mirror: Mirror,
    clock: Arc<dyn Clock>,
}

/// What a sink is to have.
pub(crate) struct Wish {
    sink: SinkKey,
    need: Need,
}

enum Need {
    /// A table.
    Table(Table),
    /// Nothing any more.
    Nothing,
    /// Not even the table with its rows, which is in a project, unless another sink writes to it.
    Discard(Table),
}

impl Wish {
    pub(crate) const fn table(sink: SinkKey, table: Table) -> Self {
        Self {
            sink,
            need: Need::Table(table),
        }
    }

    pub(crate) const fn nothing(sink: SinkKey) -> Self {
        Self {
            sink,
            need: Need::Nothing,
        }
    }

    /// That of a sink that is purged: nothing, and its table in a project goes unless another sink writes to it.
    pub(crate) fn purged(sink: Sink) -> Self {
        let need = match sink.table.kind {
            TableKind::Keboola => Need::Discard(sink.table),
            TableKind::Sqlite | TableKind::Postgres => Need::Nothing,
        };
        Self {
            sink: sink.key,
            need,
        }
    }
}

/// The work between making and settling.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// Makes what the wishes need, then does `store`, then settles what became of it. `owner` is the token of whoever asks.
pub(crate) async fn with_destinations<T>(
    context: &Context,
    state: &Store,
    owner: Option<&Secret<String>>,
    wishes: Vec<Wish>,
    store: Boxed<'_, T>,
) -> Result<T, ApiError> {
    let prepared = Box::pin(prepare(context, state, owner, &wishes)).await;
    let outcome = match prepared {
        Ok(()) => store.await,
        Err(error) => Err(error),
    };
    let Some(destinations) = &context.destinations else {
        return outcome;
    };
    for Wish { sink, .. } in wishes {
        // What was asked for is decided. What is left over in the project is looked after until it is gone.
        if let Err(error) = Box::pin(destinations.settle(state, &sink, owner)).await {
            warn!(%sink, %error, "what a sink has in its project cannot be settled, trying again");
        }
    }
    outcome
}

async fn prepare(
    context: &Context,
    state: &Store,
    owner: Option<&Secret<String>>,
    wishes: &[Wish],
) -> Result<(), ApiError> {
    for Wish { sink, need } in wishes {
        let of_project = |table: &&Table| table.kind == TableKind::Keboola;
        let table = match need {
            Need::Table(table) => Some(table),
            Need::Nothing | Need::Discard(_) => None,
        };
        if let Some(table) = table.filter(|table| !of_project(table)) {
            let target = context.targets.get(table.kind).ok_or_else(not_configured)?;
            target.prepare(table).await?;
        }
        let wanted = table.filter(of_project);
        match (&context.destinations, wanted, need) {
            (Some(destinations), _, Need::Discard(table)) => {
                destinations.discard(state, sink, table, owner).await?;
            }
            (Some(destinations), wanted, _) => {
                destinations.change(state, sink, wanted, owner).await?;
            }
            (None, Some(_), _) => return Err(not_configured()),
            (None, None, _) => {}
        }
    }
    Ok(())
}

fn without_owner() -> ApiError {
    let message = "The token of the request is needed for a table in a project.";
    ApiError::new(Code::Forbidden, message)
}

fn not_configured() -> ApiError {
    let message = "The target of the table is not configured any more.";
    ApiError::new(Code::BadRequest, message)
}

impl Destinations {
    pub(crate) fn new(
        storage_api: StorageApi,
        custody: Custody,
        mirror: Mirror,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            storage_api,
            custody,
            mirror,
            clock,
        }
    }

    /// Makes what a sink is to have and has not, or notes that it is to have nothing any more.
    async fn change(
        &self,
        state: &Store,
        sink: &SinkKey,
        wanted: Option<&Table>,
        owner: Option<&Secret<String>>,
    ) -> Result<(), ApiError> {
        // An earlier change that nobody has settled yet.
        self.settle(state, sink, owner).await?;
        let has = state.destination(sink).await?.map(|it| it.value.table_id);
        let owner = || owner.ok_or_else(without_owner);
        match (wanted, has) {
            (None, None) => Ok(()),
            (Some(table), Some(has)) if table.table_id == has => {
                self.check(sink, table, owner()?).await
            }
            (None, Some(_)) => {
                let begun = self.begin(state, sink, None, owner()?).await;
                begun.map(drop)
            }
            (Some(table), _) => {
                let begun = self.begin(state, sink, Some(table), owner()?).await?;
                self.make(state, sink, (begun, table), owner()?).await
            }
        }
    }

    /// Notes that a sink is to have nothing any more, and that its table goes with it.
    async fn discard(
        &self,
        state: &Store,
        sink: &SinkKey,
        table: &Table,
        owner: Option<&Secret<String>>,
    ) -> Result<(), ApiError> {
        self.settle(state, sink, owner).await?;
        let owner = owner.ok_or_else(without_owner)?;
        let begun = self.begin(state, sink, Some(table), owner).await?;
        let discarding = Provisioning {
            table: Some(Origin::Discarded),
            ..begun.value.clone()
        };
        let noted = state.update_provisioning(sink, &begun, discarding).await?;
        drop(noted);
        Ok(())
    }

    async fn begin(
        &self,
        state: &Store,
        sink: &SinkKey,
        table: Option<&Table>,
        owner: &Secret<String>,
    ) -> Result<Versioned<Provisioning>, ApiError> {
        let begun = Provisioning {
            began_at: self.clock.now(),
            mark: random_text(MARK_LEN),
            owner: self.custody.seal(&place::owner(sink), owner)?,
            table_id: table.map(|table| table.table_id.clone()),
            bucket: None,
            table: None,
            token: None,
            file: None,
            replaced: None,
        };
        Ok(state.begin_provisioning(sink, begun).await?)
    }

    /// The token of whoever asked for a change.
    fn owner(&self, sink: &SinkKey, sealed: &Sealed) -> Result<Secret<String>, ApiError> {
        Ok(self.custody.open(&place::owner(sink), sealed)?)
    }
}

impl From<CustodyError> for ApiError {
    fn from(error: CustodyError) -> Self {
        Self::of_kind(error.kind(), &error)
    }
}

/// Where sealed texts are kept: they can be opened nowhere else.
mod place {
    use super::{Key, SinkKey};

    pub(super) fn owner(sink: &SinkKey) -> String {
        format!("{}#owner", Key::Provisioning(sink.clone()))
    }

    pub(super) fn token(sink: &SinkKey) -> String {
        format!("{}#token", Key::Destination(sink.clone()))
    }

    pub(super) fn file(sink: &SinkKey) -> String {
        format!("{}#file", Key::Destination(sink.clone()))
    }
}
