//! A storage node: the machine part of the pipeline, between the journal of a volume and object storage.
//!
//! | component | does |
//! |---|---|
//! | [`Writer`] | opens the volumes of this machine, serves them, opens and seals their slices as the state says, and removes what is safe in staging |
//! | [`Reader`] | uploads sealed slices of these volumes, and never removes anything |
//!
//! Both are driven by the mirror of the state and may be stopped at any instruction: whatever they do is found again and
//! done again. Neither decides when a slice is closed; that is the coordinator's.
//!
//! A volume belongs to one writer at a time. The lock on its directory holds that on one machine; its *incarnation*, a
//! number in the state that every opening raises, holds it everywhere: seals and uploads under an old number are refused.

mod changes;
mod copies;
mod discover;
pub mod reader;
pub mod writer;

pub use discover::{DiscoverError, VolumeDir};
pub use reader::{FoundVolumes, Reader, ReaderDeps, ReaderError, ReaderOptions};
pub use writer::{OpenVolumes, Writer, WriterDeps, WriterError, WriterOptions};
