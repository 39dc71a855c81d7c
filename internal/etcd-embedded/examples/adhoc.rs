#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut o = stream_etcd_embedded::Options::new(&a[1]);
    o.listen = Some("127.0.0.1:23999".parse().unwrap());
    let s = tokio::task::spawn_blocking(move || stream_etcd_embedded::Server::open(o).unwrap())
        .await
        .unwrap();
    let c = tokio_util::sync::CancellationToken::new();
    let d = c.clone();
    tokio::spawn(async move {
        tokio::signal::ctrl_c().await.unwrap();
        d.cancel();
    });
    s.run(c).await.unwrap();
}
