//! Reading.

use etcd_client::{Client, GetOptions, GetResponse, SortOrder, SortTarget};
use tonic::Code;

use super::{place, revision};
use crate::harness::{refusal, refused};

/// Puts `name=value` in order; `!name` deletes.
async fn fill(client: &mut Client, place: &str, entries: &[&str]) {
    for entry in entries {
        match (entry.split_once('='), entry.strip_prefix('!')) {
            (Some((name, value)), _) => {
                let put = client.put(format!("{place}{name}"), value, None).await;
                put.expect("put");
            }
            (None, Some(name)) => {
                let deleted = client.delete(format!("{place}{name}"), None).await;
                deleted.expect("delete");
            }
            (None, None) => panic!("{entry}"),
        }
    }
}

/// The names of the keys, without the place.
fn names(got: &GetResponse) -> String {
    let names: Vec<_> = got
        .kvs()
        .iter()
        .map(|pair| {
            let key = String::from_utf8_lossy(pair.key()).into_owned();
            key.rsplit('/').next().map(str::to_owned).unwrap_or(key)
        })
        .collect();
    names.join(" ")
}

async fn read(client: &mut Client, key: String, options: GetOptions) -> GetResponse {
    client.get(key, Some(options)).await.expect("get")
}

pub(super) async fn reads_one_key_a_span_a_prefix_and_from_a_key(mut client: Client) {
    let place = place(&mut client, "ranges").await;
    fill(&mut client, &place, &["a=1", "ab=1", "b=1", "c=1", "!c"]).await;
    let options = GetOptions::new();
    let one = read(&mut client, format!("{place}a"), options.clone()).await;
    assert_eq!((names(&one).as_str(), one.count()), ("a", 1));
    let to_b = options.clone().with_range(format!("{place}b"));
    let span = read(&mut client, format!("{place}a"), to_b).await;
    assert_eq!(names(&span), "a ab");
    let prefix = read(
        &mut client,
        format!("{place}a"),
        options.clone().with_prefix(),
    )
    .await;
    assert_eq!(names(&prefix), "a ab");
    let all = read(&mut client, place.clone(), options.clone().with_prefix()).await;
    assert_eq!(names(&all), "a ab b");
    assert!(!all.more());
    let from = options.with_from_key().with_limit(2);
    let from = read(&mut client, format!("{place}ab"), from).await;
    assert_eq!(names(&from), "ab b");
}

pub(super) async fn an_inverted_span_is_empty(mut client: Client) {
    let place = place(&mut client, "inverted").await;
    fill(&mut client, &place, &["a=1", "b=1"]).await;
    for end in ["a", "b"] {
        let options = GetOptions::new().with_range(format!("{place}{end}"));
        let got = read(&mut client, format!("{place}b"), options).await;
        assert_eq!((got.count(), got.kvs().len()), (0, 0));
    }
}

pub(super) async fn limit_tells_whether_there_is_more(mut client: Client) {
    let place = place(&mut client, "limit").await;
    fill(&mut client, &place, &["a=1", "b=1", "c=1"]).await;
    for (limit, found, more) in [
        (1, "a", true),
        (2, "a b", true),
        (3, "a b c", false),
        (0, "a b c", false),
    ] {
        let options = GetOptions::new().with_prefix().with_limit(limit);
        let got = read(&mut client, place.clone(), options).await;
        assert_eq!((names(&got).as_str(), got.more()), (found, more));
        assert_eq!(got.count(), 3);
    }
}

pub(super) async fn counts_without_values_and_names_without_values(mut client: Client) {
    let place = place(&mut client, "count").await;
    fill(&mut client, &place, &["a=1", "b=1"]).await;
    let prefix = GetOptions::new().with_prefix();
    let count = read(&mut client, place.clone(), prefix.clone().with_count_only()).await;
    assert_eq!((count.count(), count.kvs().len()), (2, 0));
    let keys = read(&mut client, place.clone(), prefix.clone().with_keys_only()).await;
    assert_eq!(
        (names(&keys).as_str(), keys.kvs()[0].value()),
        ("a b", &[][..])
    );
    assert_eq!(keys.kvs()[0].version(), 1);
    let serializable = read(&mut client, place, prefix.with_serializable()).await;
    assert_eq!(names(&serializable), "a b");
}

pub(super) async fn sorts_by_every_target(mut client: Client) {
    let place = place(&mut client, "sort").await;
    // Created a b c, modified b c a, versions b=1 a=2 c=3, values c < a < b.
    fill(
        &mut client,
        &place,
        &["a=x", "b=z", "c=x", "c=x", "c=1", "a=5"],
    )
    .await;
    for (target, ascending) in [
        (SortTarget::Key, "a b c"),
        (SortTarget::Create, "a b c"),
        (SortTarget::Mod, "b c a"),
        (SortTarget::Version, "b a c"),
        (SortTarget::Value, "c a b"),
    ] {
        for order in [SortOrder::Ascend, SortOrder::Descend] {
            let options = GetOptions::new().with_prefix().with_sort(target, order);
            let got = read(&mut client, place.clone(), options).await;
            let mut expected: Vec<_> = ascending.split(' ').collect();
            if order == SortOrder::Descend {
                expected.reverse();
            }
            assert_eq!(names(&got), expected.join(" "), "{target:?} {order:?}");
        }
    }
}

pub(super) async fn sorts_before_it_limits(mut client: Client) {
    let place = place(&mut client, "sort-limit").await;
    fill(&mut client, &place, &["a=3", "b=2", "c=1"]).await;
    let options = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Value, SortOrder::Ascend)
        .with_limit(2);
    let got = read(&mut client, place, options).await;
    assert_eq!((names(&got).as_str(), got.more()), ("c b", true));
    assert_eq!(got.count(), 3);
}

pub(super) async fn filters_by_revision(mut client: Client) {
    let place = place(&mut client, "filter").await;
    let base = revision!(client.get("x", None).await.expect("get"));
    // a: created 1, modified 4. b: 2. c: 3.
    fill(&mut client, &place, &["a=1", "b=1", "c=1", "a=2"]).await;
    let prefix = || GetOptions::new().with_prefix();
    for (options, found) in [
        (prefix().with_min_mod_revision(base + 3), "a c"),
        (prefix().with_max_mod_revision(base + 2), "b"),
        (prefix().with_min_create_revision(base + 2), "b c"),
        (prefix().with_max_create_revision(base + 1), "a"),
    ] {
        let got = read(&mut client, place.clone(), options).await;
        assert_eq!(names(&got), found);
        // Of the range, not of what the filter leaves.
        assert_eq!(got.count(), 3);
    }
    let limited = prefix().with_min_create_revision(base + 2).with_limit(1);
    let got = read(&mut client, place, limited).await;
    assert_eq!((names(&got).as_str(), got.more()), ("b", true));
}

pub(super) async fn reads_the_past(mut client: Client) {
    let place = place(&mut client, "past").await;
    let base = revision!(client.get("x", None).await.expect("get"));
    fill(&mut client, &place, &["a=1", "b=1", "a=2", "!a", "a=3"]).await;
    for (after, expected) in [
        (0, ""),
        (1, "a=1"),
        (2, "a=1 b=1"),
        (3, "a=2 b=1"),
        (4, "b=1"),
        (5, "a=3 b=1"),
    ] {
        let options = GetOptions::new().with_prefix().with_revision(base + after);
        let got = read(&mut client, place.clone(), options).await;
        let found: Vec<_> = got
            .kvs()
            .iter()
            .map(|pair| {
                let key = pair.key_str().expect("text");
                let value = pair.value_str().expect("text");
                format!("{}={value}", key.strip_prefix(&place).expect("in place"))
            })
            .collect();
        assert_eq!(found.join(" "), expected);
        assert_eq!(revision!(got), base + 5);
    }
}

pub(super) async fn refuses_the_future(mut client: Client) {
    let now = revision!(client.get("x", None).await.expect("get"));
    let options = GetOptions::new().with_revision(now + 100);
    assert_eq!(
        refusal(client.get("x", Some(options)).await),
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision"
        )
    );
}
