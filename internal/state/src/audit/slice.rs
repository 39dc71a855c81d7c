//! Rules of slices and of the limits that they have reached.
//!
//! Which slices may be writing follows from their files: in a writing file one per volume, in a closing file those that are
//! still to be closed, in any other none.

use std::collections::{BTreeMap, HashMap};

use stream_model::file::{File, State as FileState};
use stream_model::invariant;
use stream_model::slice::{Kind, Slice, State};
use stream_model::statistics::Crossed;
use stream_model::{FileId, SinkKey, SliceId, VolumeId};

use super::picture::{OfSink, Picture};
use super::{Finding, rule};
use crate::keyspace::Key;

pub(super) fn check(picture: &Picture, findings: &mut Vec<Finding>) {
    let mut owners: HashMap<FileId, SinkKey> = HashMap::new();
    for (key, _, of_sink) in picture.sinks() {
        owners.extend(of_sink.files.keys().map(|file| (*file, key.clone())));
    }
    for (key, _, of_sink) in picture.sinks() {
        if of_sink.is_purging() {
            continue;
        }
        let sink = SinkSlices {
            picture,
            key: &key,
            of_sink,
        };
        for slice in of_sink.slices.values() {
            match of_sink.files.get(&slice.file) {
                Some(file) => sink.check_in_file(slice, &file.value, findings),
                None if slice.kind.is_rows() => sink.check_owner(slice, &owners, findings),
                // Rejected records belong to no file.
                None => {}
            }
            sink.check_content(slice, findings);
            sink.check_sealer(slice, findings);
        }
        sink.check_writing(findings);
        sink.check_predecessors(findings);
        sink.check_crossed(Kind::Rows, &of_sink.crossed, findings);
        sink.check_crossed(Kind::Rejects, &of_sink.rejects_crossed, findings);
    }
}

/// The slices of one sink.
struct SinkSlices<'a> {
    picture: &'a Picture,
    key: &'a SinkKey,
    of_sink: &'a OfSink,
}

impl SinkSlices<'_> {
    fn slice_key(&self, id: SliceId) -> Key {
        Key::Slice(self.key.clone(), id)
    }

    fn check_owner(
        &self,
        slice: &Slice,
        owners: &HashMap<FileId, SinkKey>,
        findings: &mut Vec<Finding>,
    ) {
        let own = Key::File(self.key.clone(), slice.file);
        if let Some(other) = owners.get(&slice.file)
            && !self.picture.has(&own)
        {
            let detail = format!("its file {} belongs to sink {other}", slice.file);
            findings.push(rule::OWN_SINK.broken(self.slice_key(slice.id), detail));
        }
    }

    fn check_in_file(&self, slice: &Slice, file: &File, findings: &mut Vec<Finding>) {
        let key = self.slice_key(slice.id);
        if slice.mapping_version != file.mapping_version {
            let (own, other) = (slice.mapping_version, file.mapping_version);
            let detail = format!("it has version {own}, file {} has {other}", file.id);
            findings.push(rule::SAME_MAPPING.broken(&key, detail));
        }
        let in_order = file.table.mapping.primary_key().next().is_some();
        let cannot_have_moved = slice.state == State::Writing || in_order;
        if cannot_have_moved && !file.volumes.contains(&slice.volume) {
            let detail = format!("volume {} is none of file {}", slice.volume, file.id);
            findings.push(rule::OWN_VOLUME.broken(&key, detail));
        }
        // Without order a later file may be imported and removed while this one waits.
        let successor = slice.closing().and_then(|closing| closing.successor);
        let is_imported = matches!(file.state, FileState::Imported { .. });
        if let Some(successor) = successor.filter(|_| in_order && !is_imported)
            && !self.picture.has(&self.slice_key(successor))
        {
            let detail = format!("slice {successor} is missing");
            findings.push(rule::SUCCESSOR.broken(&key, detail));
        }
    }

    fn check_content(&self, slice: &Slice, findings: &mut Vec<Finding>) {
        let key = self.slice_key(slice.id);
        let rows = slice.seal().map_or(0, |seal| seal.figures.rows);
        // Between a value and itself only the rules about the value are left.
        if let Err(violation) = invariant::check_slice(slice, slice) {
            let object = if slice.object().is_some() { "an" } else { "no" };
            let detail = format!("it has {rows} rows and {object} object");
            findings.push(rule::CONTENT.broken_as(violation.rule, &key, detail));
        }
        if rows == 0 && matches!(slice.state, State::Uploading { .. }) {
            findings.push(rule::CONTENT.broken(&key, "it is uploading and has no rows"));
        }
    }

    fn check_sealer(&self, slice: &Slice, findings: &mut Vec<Finding>) {
        let of_volume = self.picture.volumes.get(&slice.volume);
        let newest = of_volume.and_then(|volume| volume.incarnation.as_ref());
        if let (Some(seal), Some(newest)) = (slice.seal(), newest)
            && seal.incarnation > newest.number
        {
            let (sealer, volume, newest) = (seal.incarnation, slice.volume, newest.number);
            let detail = format!("sealed by {sealer}, volume {volume} has {newest}");
            findings.push(rule::SEALED_BY.broken(self.slice_key(slice.id), detail));
        }
    }

    fn check_writing(&self, findings: &mut Vec<Finding>) {
        let mut first: BTreeMap<(FileId, VolumeId), SliceId> = BTreeMap::new();
        let slices = self.of_sink.slices.values();
        for slice in slices.filter(|slice| slice.state == State::Writing) {
            let place = (slice.file, slice.volume);
            if let Some(other) = first.insert(place, slice.id) {
                let detail = format!("slice {other} is writing on volume {}, too", slice.volume);
                findings.push(rule::ONE_SLICE.broken(self.slice_key(slice.id), detail));
            }
        }
    }

    fn check_predecessors(&self, findings: &mut Vec<Finding>) {
        let mut first: BTreeMap<SliceId, SliceId> = BTreeMap::new();
        for slice in self.of_sink.slices.values() {
            let Some(successor) = slice.closing().and_then(|closing| closing.successor) else {
                continue;
            };
            if let Some(other) = first.insert(successor, slice.id) {
                let detail = format!("slices {other} and {} name it", slice.id);
                findings.push(rule::ONE_PREDECESSOR.broken(self.slice_key(successor), detail));
            }
        }
    }

    fn check_crossed(
        &self,
        kind: Kind,
        reports: &BTreeMap<SliceId, Crossed>,
        findings: &mut Vec<Finding>,
    ) {
        for (id, crossed) in reports {
            let detail = match self.of_sink.slices.get(id) {
                Some(slice) if slice.state != State::Writing => {
                    format!("the slice is {}", slice.state.name())
                }
                Some(slice) if slice.kind != kind => "the slice holds something else".to_owned(),
                Some(slice) if slice.volume != crossed.volume => {
                    let (noted, own) = (crossed.volume, slice.volume);
                    format!("noted by volume {noted}, the slice is on {own}")
                }
                None if !self.picture.has(&self.slice_key(*id)) => {
                    "the slice is missing".to_owned()
                }
                Some(_) | None => continue,
            };
            let key = match kind {
                Kind::Rows => Key::Crossed(self.key.clone(), *id),
                Kind::Rejects => Key::RejectsCrossed(self.key.clone(), *id),
            };
            findings.push(rule::CROSSED.broken(key, detail));
        }
    }
}
