//! What etcd promises. Every function here takes a client and holds for any server.
//!
//! Each runs twice: as `embedded::NAME` against an embedded server of its own, and as `etcd::NAME` against a real etcd that
//! all of them share, one after the other, in keys below `conformance/`. They compact its history.

mod cluster;
mod kv;
mod lease;
mod range;
mod txn;
mod txn_rules;
mod watch;

use etcd_client::{Client, DeleteOptions};
use tokio::sync::Mutex;

use crate::harness::Running;

/// A compaction by one test would break the reads in the past of another, and every write its count of revisions.
static REAL_ETCD: Mutex<()> = Mutex::const_new(());

async fn on_embedded(test: impl AsyncFnOnce(Client)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    test(running.client().await).await;
    running.stop().await;
}

async fn on_etcd(test: impl AsyncFnOnce(Client)) {
    let _alone = REAL_ETCD.lock().await;
    let Some(cluster) = stream_tests_etcd::shared().await else {
        return;
    };
    let client = Client::connect(cluster.endpoints(), None).await;
    test(client.expect("the endpoint is valid")).await;
}

/// An empty place for the keys of one test.
pub(crate) async fn place(client: &mut Client, name: &str) -> String {
    let prefix = format!("conformance/{name}/");
    let everything = DeleteOptions::new().with_prefix();
    client
        .delete(prefix.clone(), Some(everything))
        .await
        .expect("keys can be deleted");
    prefix
}

/// The revision in a header.
macro_rules! revision {
    ($response:expr) => {
        $response
            .header()
            .expect("every answer has a header")
            .revision()
    };
}
pub(crate) use revision;

macro_rules! suite {
    ($($module:ident: $($test:ident)+;)+) => {
        mod embedded {
            $($(
                #[tokio::test]
                async fn $test() {
                    super::on_embedded(super::$module::$test).await;
                }
            )+)+
        }

        mod etcd {
            $($(
                #[tokio::test]
                async fn $test() {
                    super::on_etcd(super::$module::$test).await;
                }
            )+)+
        }
    };
}

suite! {
    kv:
        a_key_tells_its_revisions_and_version
        put_answers_the_previous_value_when_asked
        put_can_keep_the_value_or_the_lease
        put_refuses_contradictions
        deletes_a_range_and_answers_what_was_there
        deleting_nothing_is_no_revision
        refuses_an_empty_key
        refuses_a_request_that_is_too_large
        compaction_forgets_the_past
        compaction_refuses_the_past_and_the_future;
    range:
        reads_one_key_a_span_a_prefix_and_from_a_key
        an_inverted_span_is_empty
        limit_tells_whether_there_is_more
        counts_without_values_and_names_without_values
        sorts_by_every_target
        sorts_before_it_limits
        filters_by_revision
        reads_the_past
        refuses_the_future;
    txn:
        compares_every_target_with_every_result
        a_missing_key_has_zeroes_but_no_value
        compares_every_key_of_a_range
        carries_out_one_branch_in_one_revision
        a_range_sees_what_the_transaction_wrote_before
        without_a_write_there_is_no_revision
        nested_comparisons_see_the_state_before
        of_concurrent_swaps_one_wins;
    txn_rules:
        refuses_to_put_a_key_twice
        allows_what_cannot_happen_together
        refuses_too_many_operations
        nesting_shares_the_limit
        a_refused_operation_undoes_the_others
        an_unreadable_revision_undoes_the_others
        operations_are_checked_like_requests;
    watch:
        delivers_changes_in_order
        delivers_the_previous_value_when_asked
        delivers_only_the_range
        starts_in_the_past
        starts_in_the_future
        filters_by_kind
        a_revision_is_one_response
        many_watchers_share_a_stream
        refuses_a_used_identifier_and_an_empty_range
        is_cancelled_when_its_start_is_compacted
        answers_progress_after_the_events
        catches_up_with_a_long_history
        a_large_revision_is_fragmented_when_asked
        what_is_too_large_for_a_client_reaches_it_in_fragments;
    lease:
        grants_under_a_given_or_a_new_identifier
        refuses_a_used_identifier_and_an_endless_time
        revoking_deletes_the_keys_in_one_revision
        an_unknown_lease_is_refused
        tells_the_time_left_and_the_keys
        lists_all
        a_key_belongs_to_its_last_lease
        keeping_alive_answers_the_time_to_live
        an_expired_lease_deletes_its_keys
        a_lease_kept_alive_does_not_expire;
    cluster:
        headers_tell_the_same_cluster
        the_only_member_leads
        a_checksum_is_of_a_revision
        defragmenting_changes_nothing
        there_are_no_alarms;
}
