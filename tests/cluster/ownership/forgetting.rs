//! A volume is given up while its writer lives and cannot hear of it.

use stream_tests::client::{PATIENCE, PAUSE};
use stream_tests::proxy::Proxy;
use stream_tests::service::Service;
use tokio::time::{Instant, sleep};

use super::AFTER_A_PAUSE;
use super::installation::{Installation, create, id_of};
use super::load::Load;

/// What a writer says whose volume was given up.
const FORGOTTEN: &str = "volume was forgotten and stays closed, move its directory away";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_was_cut_off_closes_its_forgotten_volume_as_soon_as_it_hears_of_it() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let etcd = site.etcd_address().parse().expect("an address");
    let proxy = Proxy::start(etcd).await.expect("a port");
    let volumes = site.volumes("volumes", &["local"]);
    let through = format!("http://{}", proxy.address());
    let setup = site.node("a", &volumes).env("ETCD_ENDPOINT", &through);
    let mut service = Service::start(setup).await.expect("starts");
    let source = create(&service).await;
    let id = id_of(&volumes.join("default/local"));
    let load = Load::start(&[service.setup().source_address()], &source, 0);
    load.more(200).await.expect("acknowledged");
    let confirm = ["volume", "forget", &id, "confirm"];
    let open = site.command(&confirm).await;
    assert_eq!(open.code, Some(1), "{}", open.stdout);
    assert!(open.stderr.contains("open on node a"), "{}", open.stderr);

    proxy.cut();
    let cut = Instant::now();
    while !site.of_volume("registration", &id).await.is_null() {
        assert!(cut.elapsed() < PATIENCE, "the lease does not end");
        sleep(PAUSE).await;
    }
    load.more(200).await.expect("its records need no etcd");
    let look = site.command(&["volume", "forget", &id]).await;
    assert!(look.stdout.contains("cut off"), "{}", look.stdout);
    let forgotten = site.command(&confirm).await;
    assert_eq!(forgotten.code, Some(0), "{}", forgotten.stderr);
    load.more(50).await.expect("it cannot know yet");

    proxy.mend();
    let mended = Instant::now();
    service.until_said(FORGOTTEN).await.expect("it hears of it");
    eprintln!(
        "forgotten: closed {} ms after etcd could be reached again",
        mended.elapsed().as_millis()
    );
    let counted = load.count();
    sleep(PAUSE * 10).await;
    assert_eq!(load.count(), counted, "it acknowledges nothing any more");
    let sent = load
        .stop()
        .await
        .expect("only answers that a client may repeat");
    eprintln!("forgotten: {}", sent.summary());
    assert!(site.of_volume("registration", &id).await.is_null());
    service.stop().await.expect("it stops");
    let check = site.command(&["state", "check"]).await;
    assert!(check.success, "{}", check.stdout);
    let ended = service.setup().run_to_end().await.expect("it ends");
    crate::start::assert_refused(&ended, &["was forgotten at"]);
    service.assert_quiet(&[AFTER_A_PAUSE, &[FORGOTTEN]].concat());
}
