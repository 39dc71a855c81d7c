//! The ledger: what is cleaned up is counted in its hour, once.

use std::collections::BTreeMap;

use stream_model::Timestamp;
use stream_model::ledger::{Counts, Hour, KEPT_DAYS};
use stream_model::rejects;
use stream_model::slice::Seal;
use stream_state::{Store, audit};

use crate::setup::*;
use crate::support::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// The seal of a slice whose first record came then.
fn seal_at(rows: u64, incarnation: u64, first_at: Timestamp) -> Seal {
    let mut seal = seal(rows, incarnation);
    seal.figures.first_at = Some(first_at);
    seal.figures.last_at = Some(first_at);
    seal
}

/// Takes a writing file with one slice to the table, and cleans it up. Answers the file that takes rows then.
async fn import_and_remove(
    store: &Store,
    open: &Open,
    number: u8,
    rows: u64,
    first_at: Timestamp,
) -> Open {
    let seal = seal_at(rows, open.incarnation, first_at);
    import_sealed_and_remove(store, open, number, seal).await
}

async fn import_sealed_and_remove(store: &Store, open: &Open, number: u8, seal: Seal) -> Open {
    let (key, incarnation, rows) = (&open.sink.value.key, open.incarnation, seal.figures.rows);
    let closed = followed(store, open, number).await;
    let stored = read_slice(store, key, open.slice.value.id).await;
    let sealed = store
        .seal_slice(&stored, seal, incarnation)
        .await
        .expect("sealed");
    let object = format!("x-{number}");
    let uploaded = store
        .upload_slice(&sealed, object, at(7), incarnation)
        .await;
    let slices = [uploaded.expect("uploaded")];
    let begun = store
        .begin_import(&closed.file, &slices, at(8))
        .await
        .expect("begun");
    let imported = store
        .complete_import(&begun, at(9), rows)
        .await
        .expect("imported");
    store
        .remove_file(&imported, &slices)
        .await
        .expect("removed");
    Open {
        sink: open.sink.clone(),
        file: read_file(store, key, file_id(number)).await,
        slice: read_slice(store, key, slice_id(number)).await,
        incarnation,
    }
}

fn rows(rows: u64) -> Counts {
    Counts {
        rows,
        imported: rows,
        ..Counts::default()
    }
}

#[tokio::test]
async fn what_is_cleaned_up_is_counted_in_its_hour() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let mut open = open(store).await;
        let key = open.sink.value.key.clone();
        let before = store.ledger(&key).await.expect("read");
        assert_eq!(
            (before.hours.len(), before.slices.len(), before.files.len()),
            (0, 1, 1)
        );
        for (number, (count, first_at)) in
            (2..).zip([(3, at(10)), (4, at(20)), (5, at(HOUR)), (6, at(DAY))])
        {
            open = import_and_remove(store, &open, number, count, first_at).await;
        }
        let planned = rejects::plan(
            &open.file.value,
            &open.slice.value,
            &[volume(1)],
            rejects::default_trigger(),
            at(1),
        );
        let id = planned[0].id;
        store
            .open_rejects(&open.file, planned)
            .await
            .expect("opened");
        let rejected = read_slice(store, &key, id).await;
        store
            .close_rejects(&rejected, closing(None), None)
            .await
            .expect("closed");
        let rejected = read_slice(store, &key, id).await;
        let seal = seal_at(2, open.incarnation, at(30));
        let sealed = store
            .seal_slice(&rejected, seal, open.incarnation)
            .await
            .expect("sealed");
        let uploaded = store
            .upload_slice(&sealed, "r".to_owned(), at(7), open.incarnation)
            .await;
        store
            .remove_rejects(&uploaded.expect("uploaded"))
            .await
            .expect("removed");

        let ledger = store.ledger(&key).await.expect("read");
        let first = Counts {
            rejected: 2,
            ..rows(7)
        };
        let hours = [(at(0), first), (at(HOUR), rows(5)), (at(DAY), rows(6))];
        let hours: BTreeMap<_, _> = hours
            .into_iter()
            .map(|(at, it)| (Hour::of(at), it))
            .collect();
        assert_eq!(ledger.hours, hours);
        assert_eq!(ledger.earlier, Counts::default());
        assert_eq!((ledger.slices.len(), ledger.files.len()), (1, 1));
        let snapshot = store.snapshot().await.expect("read");
        assert_eq!(audit::check(&snapshot.entries, at(100)), []);
    })
    .await;
}

#[tokio::test]
async fn days_that_are_too_old_are_folded_and_nothing_is_forgotten() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let mut open = open(store).await;
        let key = open.sink.value.key.clone();
        let days = i64::try_from(KEPT_DAYS).expect("few") + 9;
        for day in 0..days {
            let number = u8::try_from(day + 2).expect("few");
            open = import_and_remove(store, &open, number, 1, at(day * DAY)).await;
        }
        let ledger = store.ledger(&key).await.expect("read");
        assert_eq!(ledger.hours.len(), usize::try_from(KEPT_DAYS).expect("few"));
        assert_eq!(ledger.earlier, rows(9));
        let oldest = ledger.hours.keys().next().copied();
        assert_eq!(oldest, Some(Hour::of(at(9 * DAY))));
    })
    .await;
}

/// One that was open without a coordinator for so long that not every hour is kept, and that has more days than a transaction
/// has room for.
#[tokio::test]
async fn a_slice_counts_in_each_hour_in_which_it_got_rows() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = open.sink.value.key.clone();
        let days = 140;
        let mut seal = seal_at(10 + days, open.incarnation, at(0));
        let hours = (1..=days).map(|day| at(i64::try_from(day).expect("few") * DAY));
        seal.later_hours = hours.map(|at| (Hour::of(at), 1)).collect();
        let open = import_sealed_and_remove(store, &open, 2, seal).await;
        let ledger = store.ledger(&key).await.expect("read");
        let newest = Hour::of(at(140 * DAY)).0;
        let expected = (0..KEPT_DAYS).map(|day| (Hour(newest - day * 24), rows(1)));
        assert_eq!(ledger.hours, expected.collect());
        assert_eq!(ledger.earlier, rows(10 + days - KEPT_DAYS));

        let mut seal = seal_at(4, open.incarnation, at(139 * DAY));
        seal.later_hours = [(Hour(newest), 3)].into_iter().collect();
        import_sealed_and_remove(store, &open, 3, seal).await;
        let ledger = store.ledger(&key).await.expect("read");
        let newest = [newest - 24, newest].map(|hour| ledger.hours[&Hour(hour)].rows);
        assert_eq!(newest, [2, 4]);
    })
    .await;
}

/// State of a version that kept no ledger.
#[tokio::test]
async fn what_was_cleaned_up_without_a_ledger_counts_as_earlier() {
    on_every_server(async |mut fixture| {
        let open = open(&fixture.store).await;
        let key = open.sink.value.key.clone();
        import_and_remove(&fixture.store, &open, 2, 3, at(10)).await;
        let sum = r#"{"v":1,"rows":10,"rawBytes":1,"bytes":1}"#;
        fixture.put_raw("entity/removed/1/1/orders/raw", sum).await;
        fixture
            .put_raw("entity/rejectsremoved/1/1/orders/raw", sum)
            .await;
        let ledger = fixture.store.ledger(&key).await.expect("read");
        let earlier = Counts {
            rejected: 10,
            ..rows(7)
        };
        assert_eq!((ledger.earlier, ledger.hours.len()), (earlier, 1));
    })
    .await;
}
