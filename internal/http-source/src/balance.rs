//! Which of several volumes takes the next record: the one with the least bytes under way.

use crate::route::VolumeRoute;

/// The volume with the least outstanding bytes, out of those whose lane is not resting after a failure. When all are
/// resting, the least loaded of them: a request then waits for a volume to come back instead of failing at once.
pub(crate) fn choose(volumes: &[VolumeRoute]) -> Option<&VolumeRoute> {
    if let [only] = volumes {
        return Some(only);
    }
    volumes
        .iter()
        .min_by_key(|route| (route.lane.is_resting(), route.lane.outstanding()))
}
