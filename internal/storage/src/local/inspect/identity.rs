//! Which volume it is.

use std::path::Path;

use stream_model::VolumeId;

use super::super::identity::{FILE, Found, find};
use super::super::recovery::Damage;
use super::read_only::ReadOnlyDisk;
use super::{InspectError, unreadable};

/// The identity of the volume. When the file that holds it is damaged, the journal tells.
pub(super) fn identity(dir: &Path) -> Result<(VolumeId, Option<Damage>), InspectError> {
    match find(&ReadOnlyDisk, dir).map_err(unreadable(dir))? {
        Found::Known(id, damage) => Ok((id, damage)),
        Found::Unreadable | Found::New | Found::Foreign(_) => Err(InspectError::Identity {
            path: dir.join(FILE),
        }),
    }
}
