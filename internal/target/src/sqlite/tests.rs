use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::types::ValueRef;
use stream_model::definition::mapping::DataType;
use stream_model::time::ManualClock;
use stream_model::{ErrorKind, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::conformance::{Fixture, conformance, file, keyed, rows, table};

struct Database {
    directory: TempDir,
    clock: Arc<ManualClock>,
    target: Arc<SqliteTarget>,
}

impl Database {
    fn path(&self) -> PathBuf {
        self.directory.path().join("tables.sqlite")
    }

    /// A connection such as any other program would have.
    fn client(&self) -> Connection {
        Connection::open(self.path()).expect("opens")
    }

    fn ledger_entries(&self) -> usize {
        let count: i64 = self
            .client()
            .query_row("SELECT count(*) FROM _stream_imports", (), |row| row.get(0))
            .expect("readable");
        usize::try_from(count).expect("a count")
    }

    async fn reopened(self) -> Self {
        let Self {
            directory,
            clock,
            target,
        } = self;
        drop(target);
        let target = open_target(directory.path(), &clock).expect("reopens");
        Self {
            directory,
            clock,
            target: Arc::new(target),
        }
    }
}

impl Fixture for Database {
    fn target(&self) -> Arc<dyn Target> {
        Arc::clone(&self.target) as Arc<dyn Target>
    }

    fn rows(&self, table: &Table) -> Option<Vec<Vec<String>>> {
        let db = self.client();
        let exists = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
        let found: i64 = db
            .query_row(exists, [&table.table_id], |row| row.get(0))
            .expect("read");
        if found == 0 {
            return None;
        }
        let columns: Vec<String> = table
            .mapping
            .columns
            .iter()
            .map(|column| schema::quoted(&column.name))
            .collect();
        let query = format!(
            "SELECT {} FROM {}",
            columns.join(", "),
            schema::quoted(&table.table_id)
        );
        let mut statement = db.prepare(&query).expect("a query");
        let text = |value: ValueRef<'_>| match value {
            ValueRef::Text(text) => String::from_utf8(text.to_vec()).expect("UTF-8"),
            ValueRef::Null => String::new(),
            other => panic!("not stored as text: {other:?}"),
        };
        let read = statement.query_map((), |row| {
            (0..columns.len())
                .map(|index| Ok(text(row.get_ref(index)?)))
                .collect()
        });
        Some(
            read.expect("runs")
                .collect::<Result<_, _>>()
                .expect("readable"),
        )
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn open_target(directory: &Path, clock: &Arc<ManualClock>) -> Result<SqliteTarget, TargetError> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    // The short patience keeps the tests of locks quick.
    SqliteTarget::open_with(
        &directory.join("tables.sqlite"),
        clock,
        Duration::from_millis(50),
    )
}

fn database() -> Database {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let target = Arc::new(open_target(directory.path(), &clock).expect("opens"));
    Database {
        directory,
        clock,
        target,
    }
}

conformance!(database);

#[tokio::test]
async fn remembers_files_after_a_restart() {
    let database = database();
    let table = table("orders", &["id"]);
    let first = database
        .target
        .import(&file(1, &table), rows(&[&["1"]]))
        .await
        .expect("imported");
    let database = database.reopened().await;
    let again = database
        .target
        .import(&file(1, &table), rows(&[&["1"]]))
        .await
        .expect("no-op");
    assert_eq!(
        again,
        Imported {
            already: true,
            ..first
        }
    );
    assert_eq!(database.rows(&table).map(|rows| rows.len()), Some(1));
}

#[tokio::test]
async fn writes_are_synced_at_every_commit() {
    let database = database();
    let writer = database.target.writer.lock().await;
    let setting = |name: &str| {
        writer
            .db()
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .expect("a setting")
    };
    assert_eq!(setting("synchronous"), 2, "FULL");
    assert_eq!(setting("journal_size_limit"), i64::from(LOG_SIZE_LIMIT));
    let mode: String = database
        .client()
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .expect("a mode");
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn forgets_files_after_ninety_days_at_most_once_a_day() {
    let database = database();
    let table = table("orders", &["id"]);
    let day = Duration::from_secs(24 * 3_600);
    let import = |number: u8| {
        let file = ImportFile {
            id: FileId::new(database.clock.now(), [number; 10]),
            ..file(number, &table)
        };
        let target = Arc::clone(&database.target);
        async move {
            target
                .import(&file, rows(&[&["1"]]))
                .await
                .expect("imported")
        }
    };
    import(1).await;
    database.clock.advance(day);
    import(2).await;
    database.clock.advance(day * 89);
    import(3).await;
    assert_eq!(
        database.ledger_entries(),
        3,
        "file 1 is exactly ninety days old"
    );
    database.clock.advance(Duration::from_secs(1));
    import(4).await;
    assert_eq!(database.ledger_entries(), 4, "the ledger was pruned today");
    database.clock.advance(day * 2);
    import(5).await;
    assert_eq!(database.ledger_entries(), 3, "files 1 and 2 are gone");
    assert_eq!(database.rows(&table).map(|rows| rows.len()), Some(5));
}

#[tokio::test]
async fn a_file_imported_long_after_it_was_opened_is_remembered_from_its_import_on() {
    let database = database();
    let table = table("orders", &["id"]);
    let late = ImportFile {
        id: FileId::new(database.clock.now(), [1; 10]),
        ..file(1, &table)
    };
    database.clock.advance(ledger::KEPT * 2);
    database
        .target
        .import(&late, rows(&[&["1"]]))
        .await
        .expect("imported");
    database.clock.advance(ledger::PRUNE_INTERVAL * 2);
    database
        .target
        .import(&file(2, &table), rows(&[&["2"]]))
        .await
        .expect("imported");
    assert!(
        database
            .target
            .status(late.id)
            .await
            .expect("readable")
            .is_some()
    );
}

#[tokio::test]
async fn waits_for_another_writer_and_then_says_it_is_unavailable() {
    let database = database();
    let table = table("orders", &["id"]);
    database.target.prepare(&table).await.expect("prepared");
    let other = database.client();
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let error = database
        .target
        .import(&file(1, &table), rows(&[&["1"]]))
        .await
        .expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // What is only read goes on.
    database
        .target
        .prepare(&table)
        .await
        .expect("the table is as wanted");
    assert_eq!(
        database
            .target
            .status(file(1, &table).id)
            .await
            .expect("readable"),
        None
    );
    other.execute_batch("ROLLBACK").expect("unlocked");
    database
        .target
        .import(&file(1, &table), rows(&[&["1"]]))
        .await
        .expect("imported");
}

#[tokio::test]
async fn a_table_dropped_or_changed_by_a_person_is_repaired_or_refused() {
    let database = database();
    let table = keyed("orders", &["id", "day"], &["id"]);
    database.target.prepare(&table).await.expect("prepared");
    let client = database.client();
    client.execute_batch("DROP TABLE orders").expect("dropped");
    database
        .target
        .import(&file(1, &table), rows(&[&["1", "mon"]]))
        .await
        .expect("imported");
    client
        .execute_batch("CREATE UNIQUE INDEX days ON orders (day)")
        .expect("an index");
    let error = database
        .target
        .import(&file(2, &table), rows(&[&["2", "mon"]]))
        .await
        .expect_err("not unique");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(database.rows(&table).map(|rows| rows.len()), Some(1));
    assert_eq!(
        database
            .target
            .status(file(2, &table).id)
            .await
            .expect("readable"),
        None
    );
}

#[tokio::test]
async fn refuses_existing_tables_that_cannot_take_the_rows() {
    let database = database();
    for (existing, complaint) in [
        (
            "CREATE TABLE t (id INTEGER, v TEXT)",
            "column \"id\" is declared INTEGER",
        ),
        (
            "CREATE TABLE t (id TEXT, v DECIMAL(9,2))",
            "column \"v\" is declared DECIMAL",
        ),
        (
            "CREATE TABLE t (id TEXT, v TEXT AS (id || 'x'))",
            "column \"v\" is generated",
        ),
        (
            "CREATE TABLE t (id TEXT, v TEXT, must TEXT NOT NULL)",
            "column \"must\" must not be NULL",
        ),
        (
            "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)",
            "exists with the primary key (id)",
        ),
        (
            "CREATE VIEW t AS SELECT 1 AS id, 2 AS v",
            "a view of that name",
        ),
        (
            "CREATE TABLE o (x); CREATE INDEX t ON o (x)",
            "an index of that name",
        ),
    ] {
        let client = database.client();
        client.execute_batch(existing).expect("created");
        let error = database
            .target
            .prepare(&table("T", &["id", "v"]))
            .await
            .expect_err(existing);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(complaint), "{error}");
        let kind = if existing.contains("VIEW") {
            "VIEW"
        } else {
            "TABLE"
        };
        let name = if existing.contains("INDEX") { "o" } else { "t" };
        client
            .execute_batch(&format!("DROP {kind} {name}"))
            .expect("dropped");
    }
}

fn typed_table(types: &[DataType]) -> Table {
    let names: Vec<_> = types.iter().map(|data_type| data_type.as_str()).collect();
    let mut table = table("typed", &names);
    for (column, data_type) in table.mapping.columns.iter_mut().zip(types) {
        column.data_type = *data_type;
    }
    table
}

/// The storage class and the text of each value, row by row.
fn stored(database: &Database, table: &Table) -> Vec<Vec<String>> {
    let columns = &table.mapping.columns;
    let shown = columns.iter().map(|column| {
        let name = schema::quoted(&column.name);
        format!("typeof({name}) || ' ' || ifnull({name}, '')")
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    let client = database.client();
    let mut statement = client
        .prepare(&format!("SELECT {shown} FROM typed ORDER BY rowid"))
        .expect("valid");
    let rows = statement.query_map((), |row| {
        (0..columns.len()).map(|index| row.get(index)).collect()
    });
    rows.expect("readable")
        .map(|row| row.expect("a row"))
        .collect()
}

#[tokio::test]
async fn values_of_a_data_type_are_stored_as_such_and_empty_ones_are_null() {
    use DataType::{Bool, Float, Int, Json, String, Timestamp};
    let database = database();
    let table = typed_table(&[Int, Float, Bool, Timestamp, Json, String]);
    let time = "2006-01-02T15:04:05.000000000Z";
    let content = rows(&[
        &["-9223372036854775808", "0.5", "true", time, "007", "007"],
        &["", "", "", "", "", ""],
        &["1", "2", "false", time, "\"x\"", ""],
    ]);
    let imported = database.target.import(&file(1, &table), content).await;
    imported.expect("imported");
    let text_time = format!("text {time}");
    assert_eq!(
        stored(&database, &table),
        [
            [
                "integer -9223372036854775808",
                "real 0.5",
                "integer 1",
                &text_time,
                "text 007",
                "text 007"
            ],
            ["null ", "null ", "null ", "null ", "null ", "text "],
            [
                "integer 1",
                "real 2.0",
                "integer 0",
                &text_time,
                "text \"x\"",
                "text "
            ],
        ]
    );
    // A later definition adds a column of another type.
    let mut more = table.clone();
    more.mapping.columns[1].name = "new".to_owned();
    database.target.prepare(&more).await.expect("added");
    let declared: std::string::String = database
        .client()
        .query_row(
            "SELECT type FROM pragma_table_info('typed') WHERE name = 'new'",
            (),
            |row| row.get(0),
        )
        .expect("the column is there");
    assert_eq!(declared, "REAL");
}

#[tokio::test]
async fn a_value_of_another_type_fails_the_import_as_a_whole() {
    let database = database();
    for (data_type, wrong) in [
        (DataType::Int, "1.5"),
        (DataType::Int, "9223372036854775808"),
        (DataType::Float, "inf"),
        (DataType::Float, "x"),
        (DataType::Bool, "1"),
    ] {
        let table = typed_table(&[data_type]);
        let content = rows(&[&[""], &[wrong]]);
        let error = database.target.import(&file(1, &table), content).await;
        let error = error.expect_err(wrong);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(data_type.as_str()), "{error}");
    }
    assert_eq!(database.ledger_entries(), 0);
}

#[tokio::test]
async fn existing_columns_must_keep_values_of_a_data_type() {
    use DataType::{Bool, Float, Int, Json, Timestamp};
    let database = database();
    for (data_type, declared, fits) in [
        (Int, "INTEGER", true),
        (Int, "BIGINT", true),
        (Int, "DECIMAL", true),
        (Int, "", true),
        (Int, "BLOB", true),
        (Int, "TEXT", false),
        (Int, "REAL", false),
        (Float, "DOUBLE PRECISION", true),
        (Float, "NUMERIC", true),
        (Float, "VARCHAR(9)", false),
        (Bool, "BOOLEAN", true),
        (Bool, "TEXT", false),
        (Timestamp, "TEXT", true),
        (Timestamp, "DATETIME", false),
        (Json, "", true),
        (Json, "JSON", false),
    ] {
        let table = typed_table(&[data_type]);
        let (client, name) = (database.client(), data_type.as_str());
        let create = format!("CREATE TABLE typed (\"{name}\" {declared})");
        client.execute_batch(&create).expect("created");
        let prepared = database.target.prepare(&table).await;
        assert_eq!(prepared.is_ok(), fits, "{create} {prepared:?}");
        client.execute_batch("DROP TABLE typed").expect("dropped");
    }
}

#[tokio::test]
async fn adopts_existing_tables_that_keep_text_as_it_is() {
    let database = database();
    database
        .client()
        .execute_batch(
            "CREATE TABLE Orders (v VARCHAR(9), extra INTEGER, made TEXT NOT NULL DEFAULT 'x', raw)",
        )
        .expect("created");
    let table = table("orders", &["id", "V", "raw"]);
    database.target.prepare(&table).await.expect("adopted");
    database
        .target
        .import(&file(1, &table), rows(&[&["1", "007", "1.0"]]))
        .await
        .expect("imported");
    let read = Table {
        table_id: "Orders".to_owned(),
        ..table
    };
    assert_eq!(
        database.rows(&read),
        Some(vec![vec!["1".into(), "007".into(), "1.0".into()]])
    );
}

#[tokio::test]
async fn a_damaged_ledger_entry_is_reported() {
    let database = database();
    let table = table("orders", &["id"]);
    database
        .target
        .import(&file(1, &table), rows(&[&["1"]]))
        .await
        .expect("imported");
    database
        .client()
        .execute_batch("UPDATE _stream_imports SET imported_at = 'yesterday'")
        .expect("damaged");
    let error = database
        .target
        .status(file(1, &table).id)
        .await
        .expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("import ledger"), "{error}");
}

fn refusal(path: &Path) -> TargetError {
    let clock = Arc::new(ManualClock::default());
    SqliteTarget::open_with(path, clock, Duration::from_millis(10)).expect_err("refused")
}

#[test]
fn says_why_a_database_cannot_be_opened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);

    let error = refusal(&path("missing/tables.sqlite"));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().ends_with("its directory does not exist"),
        "{error}"
    );

    fs::create_dir(path("folder")).expect("created");
    let error = refusal(&path("folder"));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("it must be a file"), "{error}");

    let letter = "Dear reader, this is not a database. ".repeat(100);
    fs::write(path("letter"), &letter).expect("written");
    let error = refusal(&path("letter"));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error
            .to_string()
            .ends_with("is not an intact SQLite database"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(path("letter")).expect("readable"),
        letter,
        "left alone"
    );

    let other = Connection::open(path("locked")).expect("opens");
    other
        .execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE")
        .expect("locked");
    let error = refusal(&path("locked"));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().ends_with("another program has locked it"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the files bring and however they are cut into blocks, the table is what a map would be.
    #[test]
    fn upserts_like_a_map(
        files in proptest::collection::vec(
            proptest::collection::vec(("[a-d]", "[a-c]", ".{0,3}"), 0..12), 1..4),
        repeated in 0_u8..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let database = database();
        let table = keyed("t", &["v", "k", "l"], &["k", "l"]);
        let mut expected = std::collections::BTreeMap::new();
        for (number, content) in (0_u8..).zip(&files) {
            for (k, l, v) in content {
                expected.insert((k.clone(), l.clone()), v.clone());
            }
            for _ in 0..=u8::from(number == repeated) {
                let blocks: Vec<_> = content
                    .chunks(5)
                    .map(|part| {
                        let mut block = crate::RowBlock::new(3);
                        for (k, l, v) in part {
                            let row = [v.as_bytes(), k.as_bytes(), l.as_bytes()];
                            block.push_row(row).expect("three values");
                        }
                        Ok(block)
                    })
                    .collect();
                let stream = futures_util::stream::iter(blocks).boxed();
                let file = file(number, &table);
                let imported = runtime.block_on(database.target.import(&file, stream));
                prop_assert_eq!(imported.expect("imported").rows, content.len() as u64);
            }
        }
        let mut found = database.rows(&table).expect("a table");
        found.sort_by(|a, b| (&a[1], &a[2]).cmp(&(&b[1], &b[2])));
        let expected: Vec<_> = expected.into_iter().map(|((k, l), v)| vec![v, k, l]).collect();
        prop_assert_eq!(found, expected);
    }
}
