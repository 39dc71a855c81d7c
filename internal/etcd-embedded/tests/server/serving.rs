//! Starting, stopping, sockets, slow clients.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use etcd_client::{Client, Error, GetOptions, Txn, TxnOp, WatchOptions};
use stream_etcd_embedded::{OpenError, Options};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::conformance::revision;
use crate::harness::{Running, next, open, refusal, within};

#[tokio::test]
async fn a_client_may_connect_before_the_server_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = open(Options::new(dir.path())).await.expect("opened");
    let endpoint = server.endpoint();
    let early = tokio::spawn(async move {
        let mut client = endpoint.connect(None).await.expect("connected");
        client.put("a", "1", None).await.expect("put")
    });
    tokio::task::yield_now().await;
    let cancel = CancellationToken::new();
    let task = tokio::spawn(server.run(cancel.clone()));
    within(early).await.expect("no panic");
    cancel.cancel();
    within(task).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn an_open_watch_does_not_delay_the_stop() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    let mut watch = client.watch("a", None).await.expect("watch");
    assert!(next(&mut watch).await.created());
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let (_keeper, mut answers) = client.lease_keep_alive(lease).await.expect("keep alive");
    running.cancel.cancel();
    let ended = within(watch.message()).await;
    assert_eq!(
        refusal(ended),
        (Code::Unavailable, "etcdserver: server stopped".to_owned())
    );
    assert!(within(answers.message()).await.is_err());
    running.stop().await;
    assert!(client.get("a", None).await.is_err());
    assert!(!dir.path().join("etcd.sock").exists());
}

/// The client reads nothing, so its stream can only be cut.
#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_up_the_stop() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    let value = "x".repeat(1 << 20);
    for _ in 0..12 {
        client.put("a", value.clone(), None).await.expect("put");
    }
    let options = WatchOptions::new().with_start_revision(1);
    let unread = client.watch("a", Some(options)).await.expect("watch");
    running.stop().await;
    drop(unread);
}

#[tokio::test]
async fn requests_under_way_are_answered_when_the_server_stops() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..64 {
        let mut client = running.client().await;
        tasks.spawn(async move {
            let key = format!("{index}");
            client
                .put(key.clone(), "1", None)
                .await
                .is_ok()
                .then_some(key)
        });
    }
    tokio::task::yield_now().await;
    running.stop().await;
    let mut acknowledged = Vec::new();
    while let Some(key) = within(tasks.join_next()).await {
        acknowledged.extend(key.expect("no panic"));
    }
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    for key in acknowledged {
        assert_eq!(client.get(key, None).await.expect("get").count(), 1);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_reconnects_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    client.put("a", "1", None).await.expect("put");
    running.stop().await;
    assert!(matches!(
        client.get("a", None).await,
        Err(Error::GRpcStatus(_) | Error::TransportError(_))
    ));
    let running = Running::start(dir.path()).await;
    let again = async {
        loop {
            if let Ok(got) = client.get("a", None).await {
                return got;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(within(again).await.count(), 1);
    running.stop().await;
}

#[tokio::test]
async fn serves_tcp_when_asked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Options::new(dir.path())
    };
    let running = Running::start_with(options).await;
    let address = running.endpoint.tcp().expect("asked for");
    assert_ne!(address.port(), 0);
    let mut tcp = Client::connect([address.to_string()], None)
        .await
        .expect("a valid address");
    let put = tcp.put("a", "1", None).await.expect("put");
    let mut unix = running.client().await;
    let got = unix.get("a", None).await.expect("get");
    assert_eq!(revision!(got), revision!(put));
    let members = unix.member_list().await.expect("members");
    let urls = members.members()[0].client_urls();
    assert_eq!(urls[1], format!("http://{address}"));
    running.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("bound");
    let options = Options {
        listen: Some(address),
        ..Options::new(dir.path())
    };
    let Err(error) = open(options).await else {
        panic!("bound twice");
    };
    assert!(matches!(error, OpenError::Listen { .. }));
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
}

#[tokio::test]
async fn only_this_user_may_connect() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("state");
    let running = Running::start(&data).await;
    let socket = fs::metadata(data.join("etcd.sock")).expect("the socket");
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let created = fs::metadata(&data).expect("the directory");
    assert_eq!(created.permissions().mode() & 0o777, 0o700);
    running.stop().await;
}

#[tokio::test]
async fn a_long_path_and_a_stale_socket_are_no_obstacle() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("long".repeat(40)).join("path with spaces");
    fs::create_dir_all(&data).expect("created");
    fs::write(data.join("etcd.sock"), b"").expect("writable");
    let running = Running::start(&data).await;
    let canonical = data.canonicalize().expect("it exists");
    assert_eq!(
        running.endpoint.address(),
        format!("unix:{}/etcd.sock", canonical.display())
    );
    let mut client = running.client().await;
    client.put("a", "1", None).await.expect("put");
    running.stop().await;
}

/// The watcher is behind when the history is compacted: it is told, the others are not disturbed.
#[tokio::test]
async fn a_slow_watcher_is_cancelled_not_buffered() {
    const KEEP: u64 = 8;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        keep_revisions: KEEP,
        ..Options::new(dir.path())
    };
    let running = Running::start_with(options).await;
    let mut client = running.client().await;
    let mut slow = client.watch("a", None).await.expect("watch");
    assert!(next(&mut slow).await.created());
    // More than all the windows between the server and the reader hold.
    let value = "x".repeat(1 << 20);
    let mut last = 0;
    for _ in 0..4 * KEEP {
        let operations = [TxnOp::put("a", value.clone(), None)];
        let txn = client.txn(Txn::new().and_then(operations)).await;
        last = revision!(txn.expect("txn"));
    }
    let mut seen = 0;
    let compacted = loop {
        let response = next(&mut slow).await;
        if response.canceled() {
            break response.compact_revision();
        }
        for event in response.events() {
            seen = event.kv().expect("a key").mod_revision();
        }
    };
    assert!(seen < compacted && compacted < last);
    let options = GetOptions::new().with_revision(compacted);
    client.get("a", Some(options)).await.expect("readable");
    let options = WatchOptions::new().with_start_revision(compacted);
    let mut again = client.watch("a", Some(options)).await.expect("watch");
    assert!(next(&mut again).await.created());
    assert_eq!(
        next(&mut again).await.events()[0]
            .kv()
            .expect("a key")
            .mod_revision(),
        compacted
    );
    drop((slow, again));
    running.stop().await;
}
