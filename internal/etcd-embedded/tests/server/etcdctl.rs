//! The command line client of etcd against the embedded server.
//!
//! The program comes from `STREAM_TEST_ETCDCTL`, else from `PATH`. Without it these tests are skipped, and fail when `CI` is
//! `true`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use stream_etcd_embedded::Options;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Running, within};

#[allow(clippy::print_stderr, reason = "a skipped test should say so")]
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("STREAM_TEST_ETCDCTL").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("etcdctl"))
            .find(|candidate| candidate.is_file())
    });
    if found.is_none() {
        assert!(
            !std::env::var("CI").is_ok_and(|ci| ci == "true"),
            "etcdctl is not installed: install etcd-client, or name the program in STREAM_TEST_ETCDCTL"
        );
        eprintln!("skipped: etcdctl is not installed (etcd-client, or STREAM_TEST_ETCDCTL)");
    }
    found
}

/// A server and the client for it.
struct Setup {
    program: PathBuf,
    running: Running,
    address: SocketAddr,
    /// What the client connects to.
    endpoint: String,
    dir: tempfile::TempDir,
}

/// A client that goes on.
struct Session {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Setup {
    async fn new() -> Option<Self> {
        let program = program()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = Options {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..Options::new(dir.path())
        };
        let running = Running::start_with(options).await;
        let address = running.endpoint.tcp().expect("asked for");
        Some(Self {
            program,
            running,
            address,
            endpoint: address.to_string(),
            dir,
        })
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .current_dir(self.dir.path())
            .arg(format!("--endpoints={}", self.endpoint))
            .args(arguments.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What it prints, and whether it succeeds.
    async fn run_with(&self, arguments: &str, input: &str) -> (String, bool) {
        let mut child = self.command(arguments).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = within(child.wait_with_output()).await.expect("it ends");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || arguments.starts_with("endpoint health") {
            text += &String::from_utf8_lossy(&output.stderr);
        }
        (text, output.status.success())
    }

    /// What it prints, line by line.
    async fn run(&self, arguments: &str) -> Vec<String> {
        self.feed(arguments, "").await
    }

    async fn feed(&self, arguments: &str, input: &str) -> Vec<String> {
        let (text, succeeded) = self.run_with(arguments, input).await;
        assert!(succeeded, "{arguments}: {text}");
        text.lines().map(str::to_owned).collect()
    }

    async fn refused(&self, arguments: &str) -> String {
        let (text, succeeded) = self.run_with(arguments, "").await;
        assert!(!succeeded, "{arguments}: {text}");
        text
    }

    fn session(&self, arguments: &str) -> Session {
        let mut child = self.command(arguments).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Session { child, lines }
    }
}

impl Session {
    async fn line(&mut self) -> String {
        let line = within(self.lines.next_line()).await.expect("readable");
        line.expect("it goes on")
    }

    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    async fn end(mut self) {
        self.child.kill().await.expect("it runs");
    }
}

#[tokio::test]
async fn puts_gets_deletes_and_compacts() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    assert_eq!(setup.run("put a/1 one").await, ["OK"]);
    assert_eq!(setup.run("put a/2 two").await, ["OK"]);
    assert_eq!(
        setup.run("put --prev-kv a/1 uno").await,
        ["OK", "a/1", "one"]
    );
    assert_eq!(setup.run("get a/1").await, ["a/1", "uno"]);
    assert_eq!(setup.run("get a/1 --rev=2").await, ["a/1", "one"]);
    assert_eq!(
        setup.run("get a/ --prefix").await,
        ["a/1", "uno", "a/2", "two"]
    );
    assert_eq!(
        setup
            .run("get a/ --prefix --sort-by=MODIFY --order=DESCEND --limit=1 --print-value-only")
            .await,
        ["uno"]
    );
    assert_eq!(
        setup.run("get a/ --prefix --keys-only").await,
        ["a/1", "", "a/2", ""]
    );
    let json = setup.run("get a/2 -w json").await.concat();
    assert!(
        json.contains(
            r#""revision":4,"raft_term":1},"kvs":[{"key":"YS8y","create_revision":3,"mod_revision":3,"version":1,"value":"dHdv"}],"count":1}"#
        ),
        "{json}"
    );
    assert_eq!(
        setup.run("del a/ --prefix --prev-kv").await,
        ["2", "a/1", "uno", "a/2", "two"]
    );
    assert_eq!(setup.run("compaction 4").await, ["compacted revision 4"]);
    let refused = setup.refused("get a/1 --rev=3").await;
    assert!(
        refused.contains("required revision has been compacted"),
        "{refused}"
    );
    assert_eq!(setup.run("get a/1 --rev=4").await, ["a/1", "uno"]);
    setup.running.stop().await;
}

#[tokio::test]
async fn uses_the_unix_socket() {
    let Some(mut setup) = Setup::new().await else {
        return;
    };
    setup.run("put a tcp").await;
    // By a relative path: of an absolute one the client makes a name of the host that HTTP does not
    // allow, and for `endpoint` of both.
    setup.endpoint = "unix://etcd.sock".to_owned();
    assert_eq!(setup.run("get a").await, ["a", "tcp"]);
    assert_eq!(setup.run("put a unix").await, ["OK"]);
    let mut watch = setup.session("watch a --rev=3");
    assert_eq!(watch.lines(3).await, ["PUT", "a", "unix"]);
    watch.end().await;
    setup.running.stop().await;
}

#[tokio::test]
async fn carries_out_transactions() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    setup.run("put a 1").await;
    let input = "value(\"a\") = \"1\"\nmod(\"a\") > \"0\"\n\nput b 2\nget a\n\nget missing\n\n";
    assert_eq!(
        setup.feed("txn", input).await,
        ["SUCCESS", "", "OK", "", "a", "1"]
    );
    let input = "create(\"a\") = \"0\"\n\nput b 3\n\nget b\ndel b\n\n";
    let told = setup.feed("txn -i", input).await;
    let outcome = told.iter().position(|line| line == "FAILURE");
    let outcome = outcome.expect("the comparison does not hold");
    assert_eq!(told[outcome..], ["FAILURE", "", "b", "2", "", "1"]);
    setup.running.stop().await;
}

#[tokio::test]
async fn watches_from_the_past_on() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    setup.run("put a 1").await;
    setup.run("put a 2").await;
    let mut watch = setup.session("watch a --rev=2 --prev-kv");
    assert_eq!(watch.lines(3).await, ["PUT", "a", "1"]);
    assert_eq!(watch.lines(5).await, ["PUT", "a", "1", "a", "2"]);
    setup.run("del a").await;
    assert_eq!(watch.lines(4).await, ["DELETE", "a", "2", "a"]);
    setup.run("compaction 4").await;
    let refused = setup.refused("watch a --rev=2").await;
    assert!(
        refused.contains("required revision has been compacted"),
        "{refused}"
    );
    watch.end().await;
    setup.running.stop().await;
}

#[tokio::test]
async fn grants_lists_keeps_and_revokes_leases() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    let granted = setup.run("lease grant 600").await.concat();
    let id = granted
        .strip_prefix("lease ")
        .and_then(|rest| rest.strip_suffix(" granted with TTL(600s)"))
        .unwrap_or_else(|| panic!("{granted}"))
        .to_owned();
    setup.run(&format!("put --lease={id} a 1")).await;
    assert_eq!(
        setup.run("lease list").await,
        ["found 1 leases".to_owned(), id.clone()]
    );
    let told = setup
        .run(&format!("lease timetolive {id} --keys"))
        .await
        .concat();
    assert!(
        told.starts_with(&format!("lease {id} granted with TTL(600s), remaining("))
            && told.ends_with("attached keys([a])"),
        "{told}"
    );
    let kept = setup.run(&format!("lease keep-alive --once {id}")).await;
    assert_eq!(kept, [format!("lease {id} keepalived with TTL(600)")]);
    assert_eq!(
        setup.run(&format!("lease revoke {id}")).await,
        [format!("lease {id} revoked")]
    );
    assert!(setup.run("get a").await.is_empty());
    let told = setup.run(&format!("lease timetolive {id}")).await;
    assert_eq!(told, [format!("lease {id} already expired")]);
    setup.running.stop().await;
}

#[tokio::test]
async fn tells_status_health_members_and_checksum() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    setup.run("put a 1").await;
    let address = setup.address;
    let status = setup.run("endpoint status").await.concat();
    let fields: Vec<&str> = status.split(", ").collect();
    assert_eq!(
        (fields[0], fields[2]),
        (address.to_string().as_str(), "3.5.0")
    );
    // Leads, does not learn, first boot.
    assert_eq!(fields[4..7], ["true", "false", "1"], "{status}");
    let json = setup.run("endpoint status -w json").await.concat();
    for field in ["\"dbSize\":", "\"dbSizeInUse\":", "\"raftTerm\":1"] {
        assert!(json.contains(field), "{json}");
    }
    let (health, _) = setup.run_with("endpoint health", "").await;
    assert!(
        health.contains(&format!("{address} is healthy")),
        "{health}"
    );
    let members = setup.run("member list").await.concat();
    assert!(
        members.contains(", started, embedded, ") && members.contains(&format!("http://{address}")),
        "{members}"
    );
    let first = setup.run("endpoint hashkv --rev=2").await;
    setup.run("put a 2").await;
    assert_eq!(setup.run("endpoint hashkv --rev=2").await, first);
    assert_ne!(setup.run("endpoint hashkv").await, first);
    assert!(setup.run("alarm list").await.is_empty());
    assert_eq!(
        setup.run("defrag").await,
        [format!("Finished defragmenting etcd member[{address}]")]
    );
    let copy = setup.dir.path().join("copy");
    let refused = setup
        .refused(&format!("snapshot save {}", copy.display()))
        .await;
    assert!(
        refused.contains("copy its directory while the service is stopped"),
        "{refused}"
    );
    setup.running.stop().await;
}

#[tokio::test]
async fn locks_and_elects() {
    let Some(setup) = Setup::new().await else {
        return;
    };
    assert_eq!(setup.run("lock turn echo mine").await, ["mine"]);
    let mut holder = setup.session("lock turn");
    assert!(holder.line().await.starts_with("turn/"));
    let mut waiting = setup.session("lock turn echo next");
    // Until it queues behind the holder.
    let queued = async {
        while setup.run("get turn/ --prefix --keys-only").await.len() < 4 {
            tokio::task::yield_now().await;
        }
    };
    within(queued).await;
    let key = setup
        .run("get turn/ --prefix --keys-only --sort-by=CREATE --limit=1")
        .await;
    setup.run(&format!("del {}", key[0])).await;
    assert_eq!(waiting.line().await, "next");
    holder.end().await;
    waiting.end().await;

    let mut leader = setup.session("elect seat first");
    let seat = leader.line().await;
    assert!(seat.starts_with("seat/"));
    assert_eq!(leader.line().await, "first");
    let mut listener = setup.session("elect --listen seat");
    assert_eq!(listener.lines(2).await, [seat, "first".to_owned()]);
    leader.end().await;
    listener.end().await;
    setup.running.stop().await;
}
