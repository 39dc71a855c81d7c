//! Real etcds that want certificates, users, or have lost members.

use std::time::Duration;

use etcd_client::{Client, Permission};
use stream_model::{ErrorKind, Secret};
use stream_state::{ConnectOptions, StateError, Store, Tls, connect};
use stream_tests_etcd::{Cluster, Transport};

use crate::support::{node, source, source_key, volume, within};

fn options(cluster: &Cluster) -> ConnectOptions {
    ConnectOptions {
        endpoints: cluster.endpoints().to_vec(),
        username: None,
        password: None,
        tls: cluster.certificates().map(|files| Tls {
            ca: files.ca.clone(),
            identity: None,
        }),
        connect_timeout: Duration::from_secs(20),
        keep_alive_interval: Duration::from_secs(10),
        keep_alive_timeout: Duration::from_secs(5),
    }
}

fn impatient(options: ConnectOptions) -> ConnectOptions {
    ConnectOptions {
        connect_timeout: Duration::from_secs(1),
        ..options
    }
}

async fn cluster(members: usize, transport: Transport) -> Option<Cluster> {
    let program = stream_tests_etcd::program()?;
    let started = Cluster::start(&program, members, transport).await;
    Some(started.expect("etcd starts"))
}

async fn refusal(options: &ConnectOptions) -> StateError {
    match within(connect(options)).await {
        Ok(_) => panic!("it connects"),
        Err(error) => error,
    }
}

async fn works(client: Client) {
    let store = Store::open(client, "connections").await.expect("opens");
    let created = store.create_source(source("a")).await;
    created.expect("created");
}

#[tokio::test]
async fn members_prove_who_they_are() {
    let Some(cluster) = cluster(1, Transport::Tls).await else {
        return;
    };
    works(connect(&options(&cluster)).await.expect("connects")).await;

    // Signed by somebody else.
    let dir = tempfile::tempdir().expect("a directory");
    let others = stream_tests_etcd::Certificates::create(dir.path()).expect("certificates");
    let deceived = ConnectOptions {
        tls: Some(Tls {
            ca: others.ca,
            identity: None,
        }),
        ..impatient(options(&cluster))
    };
    let error = refusal(&deceived).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_process_proves_who_it_is_where_asked() {
    let Some(cluster) = cluster(1, Transport::MutualTls).await else {
        return;
    };
    let files = cluster.certificates().expect("with certificates");
    let nobody = impatient(options(&cluster));
    let error = refusal(&nobody).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let known = ConnectOptions {
        tls: Some(Tls {
            ca: files.ca.clone(),
            identity: Some((files.client.clone(), files.client_key.clone())),
        }),
        ..options(&cluster)
    };
    works(connect(&known).await.expect("connects")).await;
}

/// A user `stream` that may use the keys of one namespace, and nothing else.
async fn with_users(cluster: &Cluster) -> Client {
    let mut root = connect(&options(cluster)).await.expect("connects");
    root.role_add("root").await.expect("a role");
    root.user_add("root", "rootpass", None)
        .await
        .expect("a user");
    root.user_grant_role("root", "root").await.expect("granted");
    root.role_add("stream").await.expect("a role");
    let keys = Permission::read_write("connections/").with_prefix();
    root.role_grant_permission("stream", keys)
        .await
        .expect("granted");
    root.user_add("stream", "hunter2", None)
        .await
        .expect("a user");
    root.user_grant_role("stream", "stream")
        .await
        .expect("granted");
    root.auth_enable().await.expect("enabled");
    let known = etcd_client::ConnectOptions::new().with_user("root", "rootpass");
    let root = Client::connect(cluster.endpoints(), Some(known)).await;
    root.expect("connects")
}

#[tokio::test]
async fn a_user_has_the_rights_of_its_namespace_and_survives_a_restart_of_etcd() {
    let Some(mut cluster) = cluster(1, Transport::Plain).await else {
        return;
    };
    let _root = with_users(&cluster).await;
    let user = |password: &str| ConnectOptions {
        username: Some("stream".to_owned()),
        password: Some(Secret::new(password.to_owned())),
        ..options(&cluster)
    };
    let client = connect(&user("hunter2")).await.expect("connects");
    let store = Store::open(client.clone(), "connections").await;
    let store = store.expect("opens");
    let created = store.create_source(source("a")).await;
    created.expect("created");

    let error = refusal(&user("wrong")).await;
    assert!(matches!(error, StateError::AccessDenied { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("does not accept the user"), "{text}");
    assert!(
        !text.contains("wrong") && !text.contains("hunter2"),
        "{text}"
    );
    let Err(error) = Store::open(client, "foreign").await else {
        panic!("another namespace is not the user's");
    };
    assert!(matches!(error, StateError::AccessDenied { .. }), "{error}");
    let Err(error) = Store::open(
        connect(&options(&cluster)).await.expect("connects"),
        "connections",
    )
    .await
    else {
        panic!("nobody is not a user");
    };
    assert!(matches!(error, StateError::AccessDenied { .. }), "{error}");

    // Its tokens live in memory: after a restart the old one is worth nothing.
    cluster.kill(0);
    cluster.start_again(0).expect("starts");
    cluster.wait_until_healthy(0).await.expect("healthy");
    let read = within(async {
        loop {
            match store.source(&source_key("a")).await {
                Ok(found) => return found,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    });
    assert!(read.await.is_some(), "the token is renewed");
    let raised = store.raise_incarnation(volume(1), &node("n")).await;
    assert_eq!(raised.expect("written"), 1);
}

#[tokio::test]
async fn work_goes_on_with_any_member_away_and_stops_with_a_sentence_without_quorum() {
    let Some(mut cluster) = cluster(3, Transport::Plain).await else {
        return;
    };
    let client = connect(&options(&cluster)).await.expect("connects");
    let store = Store::open(client, "connections").await.expect("opens");
    for away in 0..3_u8 {
        let index = usize::from(away);
        cluster.kill(index);
        let raised = within(async {
            loop {
                match store.raise_incarnation(volume(away), &node("n")).await {
                    Ok(number) => return number,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
            }
        });
        assert!(raised.await >= 1);
        // A new process finds its way too.
        connect(&options(&cluster)).await.expect("connects");
        cluster.start_again(index).expect("starts");
        cluster.wait_until_healthy(index).await.expect("healthy");
    }
    cluster.kill(0);
    cluster.kill(1);
    let error = refusal(&ConnectOptions {
        connect_timeout: Duration::from_secs(6),
        ..options(&cluster)
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no quorum"), "{error}");
}
