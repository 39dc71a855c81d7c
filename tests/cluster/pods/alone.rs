//! Each component starts without any other, and waits for them.

use stream_tests::service::Service;

use super::{PODS, pod};
use crate::new_setup;
use crate::ownership::installation::Installation;
use crate::start::assert_refused;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_component_starts_as_the_only_process() {
    let Some(site) = Installation::new().await else {
        return;
    };
    site.volumes("volumes-1", &["one"]);
    site.volumes("volumes-2", &["two"]);
    for (name, component, volumes) in PODS {
        let setup = pod(&site, name, component, volumes);
        let mut service = Service::start(setup).await.expect(component);
        service.stop().await.expect("it stops");
        service.assert_quiet(&[]);
    }
}

#[tokio::test]
async fn a_process_that_keeps_the_state_itself_needs_a_writer_for_a_source() {
    let (_scratch, setup) = new_setup();
    for component in ["http-source", "storage-reader"] {
        let ended = setup.clone().words(&[component, "api"]).run_to_end().await;
        let ended = ended.expect("it ends");
        assert_refused(&ended, &[component, "storage-writer", "etcd.endpoint"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_files_are_not_shared_by_machines() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let here = pod(&site, "api", "api", "none").env("HOSTNAME", "here");
    let mut api = Service::start(here).await.expect("it starts");
    let there =
        |component: &str| pod(&site, "there", component, "volumes").env("HOSTNAME", "there");
    for component in ["storage-coordinator", "storage-reader", "api"] {
        let ended = there(component).run_to_end().await.expect("it ends");
        assert_refused(&ended, &["here", "there", "staging.url", "STREAM_HOSTNAME"]);
    }
    // What does not touch staging may be anywhere.
    let mut source = Service::start(there("http-source"))
        .await
        .expect("it starts");
    source.stop().await.expect("it stops");
    source.assert_quiet(&[]);
    api.stop().await.expect("it stops");
    api.assert_quiet(&[]);
}
