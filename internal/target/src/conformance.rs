//! What every target must do, whatever it is built on. Each target's tests run the whole suite.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use stream_model::definition::mapping::DataType;
use stream_model::definition::{Column, ColumnKind, Mapping, Table, TableKind};
use stream_model::key::{BranchKey, SinkKey, SourceKey};
use stream_model::{BranchId, ErrorKind, FileId, ProjectId, Timestamp};

use crate::{
    Fate, ImportFile, Imported, Removal, RowBlock, RowStream, RowsError, Target, TargetError,
};

/// A target, and a client of the same store that is independent of it.
pub(crate) trait Fixture: Send + Sync {
    /// The target.
    fn target(&self) -> Arc<dyn Target>;
    /// What another client sees in a table, in no particular order; none when there is no table.
    fn rows(&self, table: &Table) -> Option<Vec<Vec<String>>>;
    /// The time that the target's clock shows.
    fn now(&self) -> Timestamp;
}

/// Runs the suite against the fixture that `$open` makes.
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance::conformance!($open:
            imports_each_file_once,
            imports_a_file_without_rows_once,
            one_of_two_imports_at_the_same_time_wins,
            a_failing_stream_leaves_no_trace_and_the_retry_works,
            a_caller_that_gives_up_leaves_no_trace,
            others_see_the_old_state_or_the_new_one,
            the_last_row_of_a_key_wins,
            a_key_of_all_columns_removes_repetitions,
            keeps_values_as_they_are,
            accepts_any_name,
            a_new_column_is_added_and_older_files_still_fit,
            refuses_another_primary_key,
            refuses_rows_that_do_not_fit_the_table,
            keeps_two_tables_apart,
            a_removed_table_is_gone_and_its_files_are_never_imported,
            an_import_that_began_before_a_removal_leaves_no_row,
            a_table_that_others_write_to_is_kept,
        );
    };
    ($open:path: $($behaviour:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            $crate::conformance::$behaviour(&$open()).await;
        }
    )+};
}
pub(crate) use conformance;

pub(crate) fn table(table_id: &str, columns: &[&str]) -> Table {
    keyed(table_id, columns, &[])
}

pub(crate) fn keyed(table_id: &str, columns: &[&str], key: &[&str]) -> Table {
    let column = |name: &&str| Column {
        kind: ColumnKind::Body,
        name: (*name).to_owned(),
        primary_key: key.contains(name),
        data_type: DataType::String,
    };
    Table {
        kind: TableKind::Sqlite,
        table_id: table_id.to_owned(),
        mapping: Mapping {
            columns: columns.iter().map(column).collect(),
        },
    }
}

pub(crate) fn file(number: u8, table: &Table) -> ImportFile {
    let source = SourceKey {
        branch: BranchKey {
            project: ProjectId(1),
            branch: BranchId(1),
        },
        source: "orders".parse().expect("a valid id"),
    };
    ImportFile {
        id: FileId::from_bytes([number; 16]),
        sink: SinkKey {
            source,
            sink: "table".parse().expect("a valid id"),
        },
        table: table.clone(),
    }
}

pub(crate) fn block(rows: &[&[&str]]) -> RowBlock {
    let mut block = RowBlock::new(rows.first().map_or(1, |row| row.len()));
    for row in rows {
        block
            .push_row(row.iter().map(|value| value.as_bytes()))
            .expect("a row of the block");
    }
    block
}

pub(crate) fn rows(rows: &[&[&str]]) -> RowStream {
    stream::iter([Ok(block(rows))]).boxed()
}

fn failure() -> RowsError {
    RowsError("staging went away".into())
}

fn untouched() -> RowStream {
    stream::once(async { panic!("the rows of a known file must not be read") }).boxed()
}

fn sorted(rows: Option<Vec<Vec<String>>>) -> Vec<Vec<String>> {
    let mut rows = rows.expect("the table exists");
    rows.sort();
    rows
}

pub(crate) async fn imports_each_file_once(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id", "body"]);
    target.prepare(&table).await.expect("prepared");
    target.prepare(&table).await.expect("prepared again");
    let file = file(1, &table);
    assert_eq!(target.status(file.id).await.expect("known"), None);

    let imported = target
        .import(&file, rows(&[&["1", "a"], &["2", "b"]]))
        .await
        .expect("imported");
    assert_eq!(
        imported,
        Imported {
            rows: 2,
            at: fixture.now(),
            already: false
        }
    );
    let known = Imported {
        already: true,
        ..imported
    };
    assert_eq!(
        target.import(&file, untouched()).await.expect("no-op"),
        known
    );
    assert_eq!(target.status(file.id).await.expect("known"), Some(known));
    assert_eq!(sorted(fixture.rows(&table)), [["1", "a"], ["2", "b"]]);
}

pub(crate) async fn imports_a_file_without_rows_once(fixture: &dyn Fixture) {
    let table = table("orders", &["id"]);
    let file = file(1, &table);
    let empty = || stream::empty().boxed();
    let first = fixture
        .target()
        .import(&file, empty())
        .await
        .expect("imported");
    assert_eq!((first.rows, first.already), (0, false));
    assert!(
        fixture
            .target()
            .import(&file, empty())
            .await
            .expect("no-op")
            .already
    );
    assert_eq!(fixture.rows(&table), Some(vec![]));
}

pub(crate) async fn one_of_two_imports_at_the_same_time_wins(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    let file = file(1, &table);
    let attempts: Vec<_> = (0..4)
        .map(|_| {
            let (target, file) = (Arc::clone(&target), file.clone());
            tokio::spawn(async move { target.import(&file, rows(&[&["1"], &["2"]])).await })
        })
        .collect();
    let mut new = 0;
    for attempt in attempts {
        let imported = attempt.await.expect("no panic").expect("imported");
        assert_eq!(imported.rows, 2);
        new += usize::from(!imported.already);
    }
    assert_eq!(new, 1);
    assert_eq!(sorted(fixture.rows(&table)), [["1"], ["2"]]);
}

pub(crate) async fn a_failing_stream_leaves_no_trace_and_the_retry_works(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    target.prepare(&table).await.expect("prepared");
    let file = file(1, &table);
    // More blocks than any queue in between holds, so rows have been written when the stream fails.
    for blocks in [0, 1, 12] {
        let good = stream::iter((0..blocks).map(|_| Ok(block(&[&["1"], &["2"]]))));
        let stream = good.chain(stream::iter([Err(failure())])).boxed();
        let error = target
            .import(&file, stream)
            .await
            .expect_err("the stream failed");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let TargetError::Rows(cause) = error else {
            panic!("not the stream's error: {error}")
        };
        assert_eq!(cause.to_string(), "staging went away");
        assert_eq!(fixture.rows(&table), Some(vec![]));
        assert_eq!(target.status(file.id).await.expect("readable"), None);
    }
    let imported = target
        .import(&file, rows(&[&["3"]]))
        .await
        .expect("retried");
    assert!(!imported.already);
    assert_eq!(sorted(fixture.rows(&table)), [["3"]]);
}

pub(crate) async fn a_caller_that_gives_up_leaves_no_trace(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    target.prepare(&table).await.expect("prepared");
    let file = file(1, &table);
    let (reached, waits) = tokio::sync::oneshot::channel::<()>();
    let endless =
        stream::iter((0..12).map(|_| Ok(block(&[&["1"]])))).chain(stream::once(async move {
            let _ = reached.send(());
            std::future::pending().await
        }));
    let attempt = {
        let (target, file) = (Arc::clone(&target), file.clone());
        tokio::spawn(async move { target.import(&file, endless.boxed()).await })
    };
    waits.await.expect("the stream is read");
    attempt.abort();
    assert!(attempt.await.expect_err("aborted").is_cancelled());
    // The next import waits for the roll-back, so it also proves that nothing is left locked.
    let imported = target
        .import(&file, rows(&[&["2"]]))
        .await
        .expect("imported");
    assert!(!imported.already);
    assert_eq!(sorted(fixture.rows(&table)), [["2"]]);
}

pub(crate) async fn others_see_the_old_state_or_the_new_one(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    target
        .import(&file(1, &table), rows(&[&["old"]]))
        .await
        .expect("imported");
    // Streams are 'static; the look at the table happens here, between two blocks.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|block| (Ok(block), receiver))
    });
    let importing = {
        let (target, file) = (Arc::clone(&target), file(2, &table));
        tokio::spawn(async move { target.import(&file, stream.boxed()).await })
    };
    for _ in 0..20 {
        sender
            .send(block(&[&["new"], &["new"]]))
            .await
            .expect("the import reads on");
        assert_eq!(sorted(fixture.rows(&table)), [["old"]]);
    }
    drop(sender);
    assert_eq!(
        importing.await.expect("no panic").expect("imported").rows,
        40
    );
    assert_eq!(fixture.rows(&table).map(|rows| rows.len()), Some(41));
}

pub(crate) async fn the_last_row_of_a_key_wins(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = keyed("orders", &["day", "id", "state", "note"], &["id", "day"]);
    target.prepare(&table).await.expect("prepared");
    let first = stream::iter([
        Ok(block(&[
            &["1", "a", "new", "x"],
            &["1", "b", "new", "x"],
            &["1", "a", "paid", "y"],
        ])),
        Ok(block(&[&["1", "a", "sent", "z"], &["2", "a", "new", "x"]])),
    ]);
    let imported = target
        .import(&file(1, &table), first.boxed())
        .await
        .expect("imported");
    assert_eq!(imported.rows, 5);
    target
        .import(&file(2, &table), rows(&[&["1", "b", "gone", ""]]))
        .await
        .expect("imported");
    assert_eq!(
        sorted(fixture.rows(&table)),
        [
            ["1", "a", "sent", "z"],
            ["1", "b", "gone", ""],
            ["2", "a", "new", "x"]
        ]
    );
}

pub(crate) async fn a_key_of_all_columns_removes_repetitions(fixture: &dyn Fixture) {
    let table = keyed("orders", &["id", "day"], &["id", "day"]);
    let repeated = rows(&[&["1", "a"], &["1", "a"], &["1", "b"]]);
    fixture
        .target()
        .import(&file(1, &table), repeated)
        .await
        .expect("imported");
    assert_eq!(sorted(fixture.rows(&table)), [["1", "a"], ["1", "b"]]);
}

pub(crate) async fn keeps_values_as_they_are(fixture: &dyn Fixture) {
    let large = "0123456789abcdé".repeat(65_536);
    let values = [
        "",
        " ",
        "007",
        "1e3",
        "NULL",
        "it's",
        "say \"hi\"",
        "a,b;c\td",
        "line\r\nline\n",
        "nul\0inside",
        "\0",
        "žluťoučký",
        "😀👩‍👩‍👧",
        "\u{10ffff}",
        "\u{feff}bom",
        "?1 :a @b $c",
        &large,
    ];
    let table = table("values", &["n", "v"]);
    let numbers: Vec<String> = (0..values.len()).map(|n| format!("{n:02}")).collect();
    let written: Vec<[&str; 2]> = numbers
        .iter()
        .zip(values)
        .map(|(number, value)| [number.as_str(), value])
        .collect();
    let refs: Vec<&[&str]> = written.iter().map(<[&str; 2]>::as_slice).collect();
    fixture
        .target()
        .import(&file(1, &table), rows(&refs))
        .await
        .expect("imported");
    let read = sorted(fixture.rows(&table));
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        assert!(
            read == written,
            "{} bytes became {:?}",
            written[1].len(),
            read[1]
        );
    }
}

pub(crate) async fn accepts_any_name(fixture: &dyn Fixture) {
    let target = fixture.target();
    let columns = [
        "id",
        "a\"b",
        "select",
        "with space",
        "é",
        "É",
        "x'); DROP TABLE t; --",
        "[y]",
        "`z`",
        "?1",
    ];
    for (number, table_id) in (1..).zip([
        "in.c-bucket.table",
        "say \"hi\"",
        "group",
        "x'; --",
        "表",
        "%_",
        "_stream",
    ]) {
        let table = keyed(table_id, &columns, &["id", "a\"b"]);
        target.prepare(&table).await.expect("prepared");
        let row: Vec<&str> = columns.to_vec();
        for repetition in [0, 100] {
            target
                .import(&file(number + repetition, &table), rows(&[&row]))
                .await
                .expect("imported");
        }
        assert_eq!(sorted(fixture.rows(&table)), [columns], "{table_id}");
    }
}

pub(crate) async fn a_new_column_is_added_and_older_files_still_fit(fixture: &dyn Fixture) {
    let target = fixture.target();
    let before = keyed("orders", &["id", "a"], &["id"]);
    let after = keyed("orders", &["b", "ID", "c"], &["ID"]);
    target
        .import(&file(1, &before), rows(&[&["1", "a"]]))
        .await
        .expect("imported");
    target.prepare(&after).await.expect("columns added");
    target
        .import(&file(2, &after), rows(&[&["b", "2", "c"]]))
        .await
        .expect("imported");
    target
        .import(&file(3, &before), rows(&[&["2", "late"]]))
        .await
        .expect("imported");
    let all = keyed("orders", &["id", "a", "b", "c"], &["id"]);
    assert_eq!(
        sorted(fixture.rows(&all)),
        [["1", "a", "", ""], ["2", "late", "b", "c"]]
    );
}

pub(crate) async fn refuses_another_primary_key(fixture: &dyn Fixture) {
    let target = fixture.target();
    let first = keyed("orders", &["id", "day"], &["id"]);
    target
        .import(&file(1, &first), rows(&[&["1", "mon"]]))
        .await
        .expect("imported");
    for key in [&["day"][..], &["id", "day"], &[]] {
        let other = keyed("orders", &["id", "day"], key);
        let error = target.prepare(&other).await.expect_err("another key");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("primary key (id)"), "{error}");
        let error = target
            .import(&file(2, &other), rows(&[&["2", "tue"]]))
            .await
            .expect_err("another key");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(
        target.status(file(2, &first).id).await.expect("readable"),
        None
    );
    assert_eq!(sorted(fixture.rows(&first)), [["1", "mon"]]);
}

pub(crate) async fn refuses_rows_that_do_not_fit_the_table(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id", "day"]);
    target.prepare(&table).await.expect("prepared");
    for bad in [block(&[&["2"]]), block(&[&["2", "tue", "x"]])] {
        let stream = stream::iter([Ok(block(&[&["1", "mon"]])), Ok(bad)]).boxed();
        let error = target
            .import(&file(1, &table), stream)
            .await
            .expect_err("does not fit");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let reserved = crate::conformance::table("_stream_imports", &["id"]);
    for error in [
        target.prepare(&reserved).await.expect_err("reserved"),
        target
            .import(&file(1, &reserved), rows(&[&["1"]]))
            .await
            .expect_err("reserved"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(fixture.rows(&table), Some(vec![]));
}

pub(crate) async fn keeps_two_tables_apart(fixture: &dyn Fixture) {
    let target = fixture.target();
    let (orders, clicks) = (table("orders", &["id"]), table("clicks", &["id"]));
    assert_eq!(fixture.rows(&orders), None);
    let (first, second) = (file(1, &orders), file(2, &clicks));
    let (first, second) = tokio::join!(
        target.import(&first, rows(&[&["o"]])),
        target.import(&second, rows(&[&["c"], &["c"]])),
    );
    assert_eq!(first.expect("imported").rows, 1);
    assert_eq!(second.expect("imported").rows, 2);
    assert_eq!(sorted(fixture.rows(&orders)), [["o"]]);
    assert_eq!(sorted(fixture.rows(&clicks)), [["c"], ["c"]]);
}

fn removal(table: &Table, files: &[&ImportFile], fate: Fate) -> Removal {
    Removal {
        id: file(99, table).id,
        sink: file(0, table).sink,
        table: table.clone(),
        files: files.iter().map(|file| file.id).collect(),
        fate,
    }
}

pub(crate) async fn a_removed_table_is_gone_and_its_files_are_never_imported(
    fixture: &dyn Fixture,
) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    let (first, second) = (file(1, &table), file(2, &table));
    target
        .import(&first, rows(&[&["1"]]))
        .await
        .expect("imported");
    let all = removal(&table, &[&first, &second], Fate::Dropped);
    for _ in 0..2 {
        let imported = target.remove(&all).await.expect("removed");
        assert_eq!(imported.into_iter().collect::<Vec<_>>(), [first.id]);
        assert_eq!(fixture.rows(&table), None);
    }
    for old in [&first, &second] {
        let known = target.import(old, untouched()).await.expect("known");
        assert!(known.already);
        assert_eq!(fixture.rows(&table), None, "an old file makes no table");
    }
    // A new table of that name has other columns and rows of its own.
    let new = keyed("orders", &["key", "id"], &["key"]);
    target
        .import(&file(3, &new), rows(&[&["k", "2"]]))
        .await
        .expect("imported");
    assert_eq!(sorted(fixture.rows(&new)), [["k", "2"]]);
    // Somebody who began the removal before that and was held up for long.
    let imported = target.remove(&all).await.expect("removed long ago");
    assert_eq!(imported.into_iter().collect::<Vec<_>>(), [first.id]);
    assert_eq!(sorted(fixture.rows(&new)), [["k", "2"]]);
    let another = Removal {
        id: file(98, &new).id,
        ..removal(&new, &[], Fate::Dropped)
    };
    target.remove(&another).await.expect("removed");
    assert_eq!(fixture.rows(&new), None);
}

pub(crate) async fn an_import_that_began_before_a_removal_leaves_no_row(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    let old = file(1, &table);
    let (give, given) = tokio::sync::oneshot::channel::<()>();
    let late = stream::once(async move {
        let _ = given.await;
        Ok(block(&[&["1"]]))
    });
    // It waits for its first row: what it has done by then must not keep others from anything.
    let import = tokio::spawn({
        let (target, old) = (Arc::clone(&target), old.clone());
        async move { target.import(&old, late.boxed()).await }
    });
    // Two orders are possible, and neither leaves a row: the import is first and its row goes with the table, or it finds
    // its file in the ledger.
    let removing = tokio::spawn({
        let (target, all) = (Arc::clone(&target), removal(&table, &[&old], Fate::Dropped));
        async move { target.remove(&all).await }
    });
    give.send(()).expect("the import waits");
    import.await.expect("no panic").expect("imported or known");
    removing.await.expect("no panic").expect("removed");
    let left = fixture.rows(&table).unwrap_or_default();
    assert_eq!(left, Vec::<Vec<String>>::new());
}

pub(crate) async fn a_table_that_others_write_to_is_kept(fixture: &dyn Fixture) {
    let target = fixture.target();
    let table = table("orders", &["id"]);
    let (first, second) = (file(1, &table), file(2, &table));
    target
        .import(&first, rows(&[&["1"]]))
        .await
        .expect("imported");
    let kept = removal(&table, &[&second], Fate::Kept);
    let imported = target.remove(&kept).await.expect("fenced");
    assert!(imported.is_empty());
    let known = target.import(&second, untouched()).await.expect("known");
    assert_eq!((known.already, known.rows), (true, 0));
    assert_eq!(sorted(fixture.rows(&table)), [["1"]]);
}
