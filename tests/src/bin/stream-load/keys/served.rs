//! The service on a volume that remembers as many keys as it may: requests without a key, and with one each.

use std::path::Path;
use std::time::{Duration, Instant};

use stream_tests::service::Service;
use stream_tests::setup::Setup;

use super::{Filled, Options};
use crate::bench::{self, Mapping};
use crate::body;
use crate::load::{self, Load};
use crate::series::Series;
use crate::target::Target;
use crate::volume::run_child;

/// How long each kind of request is sent before anything is counted.
const WARM_UP: Duration = Duration::from_secs(2);
const CONNECTIONS: u64 = 256;

/// What was found.
pub struct Served {
    /// How its volume was filled.
    pub filled: Filled,
    /// From the start of the process until it was ready.
    pub ready: Duration,
    /// Without keys, and with them.
    pub series: [Series; 2],
}

/// Measures the service in a new directory.
///
/// # Errors
/// When it cannot be started, or accepts nothing.
pub async fn run(options: &Options, dir: &Path) -> anyhow::Result<Served> {
    let setup = bench::without_import(Setup::new(dir)?);
    let volume = setup.data_dir().join("volumes/default/local");
    eprintln!("a volume for the service, with {} keys", options.keys);
    let filled = run_child(&options.args("keys-fill", &volume))?;
    let keys = options.keys.to_string();
    let setup = setup.env("STORAGE_LEVEL_LOCAL_IDEMPOTENCY_MAX_KEYS", &keys);
    let start = Instant::now();
    let mut service = Service::start(setup).await?;
    let ready = start.elapsed();
    let source = bench::create_source(&service, "keys", 1, Mapping::Paths).await?;
    let address = service.setup().source_address();
    let target = Target::parse(&format!("http://{address}{}", source.path))?;
    let mut series = ["without a key", "with a new key each"]
        .map(str::to_owned)
        .map(Series::new);
    let load = |requests, duration| Load {
        target: target.clone(),
        requests,
        rate: 0,
        connections: CONNECTIONS,
        duration,
        batch: 1,
    };
    let with_keys = |number| body::requests_with_keys(&target, options.bytes, 1, number);
    load::run(load(with_keys(0), WARM_UP)).await?;
    for repeat in 1..=options.repeats {
        eprintln!(
            "requests without and with keys ({repeat}/{})",
            options.repeats
        );
        let [without, with] = &mut series;
        let plain = body::requests(&target, options.bytes, 1);
        without
            .measure(load(plain, options.duration), service.pid())
            .await?;
        with.measure(load(with_keys(repeat), options.duration), service.pid())
            .await?;
    }
    service.stop().await?;
    Ok(Served {
        filled,
        ready,
        series,
    })
}
