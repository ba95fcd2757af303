//! A message is read, whole or in part.

use minitoolstream_testkit::http;

use crate::curl::{Stage, until};

const LEN: usize = 3_000_000;

/// A broker with one large message, an object, and one small.
async fn stage() -> (Stage, Vec<u8>) {
    let stage = Stage::set(&[]).await;
    let (file, data) = stage.file("film.mp4", LEN);
    stage.curl(&["-T", &file], "/v1/messages/films/").await.expect(201);
    stage.curl(&["-d", "hello"], "/v1/messages/small").await.expect(201);
    (stage, data)
}

#[tokio::test]
async fn ranges_are_served_and_refused() {
    let (stage, data) = stage().await;
    for (range, first, last) in [
        ("0-0", 0, 0),
        ("1048575-1048576", 1_048_575, 1_048_576),
        ("2999999-", LEN - 1, LEN - 1),
        ("5-9999999", 5, LEN - 1),
        ("-1000000", LEN - 1_000_000, LEN - 1),
    ] {
        let part = stage.curl(&["-r", range], "/v1/messages/films/1").await.expect(206);
        assert!(part.body == data[first..=last], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/{LEN}"));
        assert_eq!(part.header("content-length"), (last - first + 1).to_string());
    }
    assert_eq!(stage.curl(&["-r", "1-3"], "/v1/messages/small/last").await.expect(206).body, b"ell");
    for range in ["3000000-", "-0"] {
        let refused = stage.curl(&["-r", range], "/v1/messages/films/1").await.expect(416);
        assert_eq!(refused.header("content-range"), format!("bytes */{LEN}"));
    }
    let whole = stage.curl(&["-r", "0-1,5-6"], "/v1/messages/films/1").await.expect(200);
    assert!(whole.body == data);
    stage.broker.stop().await;
}

#[tokio::test]
async fn conditions_spare_what_the_reader_has() {
    let (stage, data) = stage().await;
    let head = stage.curl(&["-I"], "/v1/messages/films/1").await.expect(200);
    let (etag, modified) = (head.header("etag").to_owned(), head.header("last-modified").to_owned());
    assert_eq!((head.header("content-length"), head.header("accept-ranges")), ("3000000", "bytes"));
    let get = |range: &'static [&'static str], header: String| {
        let stage = &stage;
        async move { stage.curl(&[range, &["-H", &header]].concat(), "/v1/messages/films/1").await }
    };
    let same = get(&[], format!("If-None-Match: {etag}")).await.expect(304);
    assert!(same.body.is_empty());
    assert_eq!(same.header("etag"), etag);
    get(&[], "If-None-Match: \"other\"".into()).await.expect(200);
    assert!(get(&[], "If-Match: \"other\"".into()).await.expect(412).error().contains("ETag"));
    get(&[], format!("If-Match: {etag}")).await.expect(200);
    for (validator, status) in [(etag, 206), (modified, 206), ("\"other\"".into(), 200)] {
        let part = get(&["-r", "9-"], format!("If-Range: {validator}")).await.expect(status);
        assert!(part.body == data[if status == 206 { 9 } else { 0 }..]);
    }
    let dated = format!("If-Range: {}", head.header("last-modified"));
    let newest = stage.curl(&["-r", "9-", "-H", &dated], "/v1/messages/films/last").await.expect(200);
    assert!(newest.body == data, "another message may be of the same second");
    stage.broker.stop().await;
}

#[tokio::test]
async fn curl_completes_a_download_that_was_cut() {
    let (stage, data) = stage().await;
    let half = stage.path("half.mp4");
    std::fs::write(&half, &data[..LEN / 2]).unwrap();
    let rest = stage.curl_into(&half, &["-C", "-"], "/v1/messages/films/1").await.expect(206);
    assert_eq!(rest.exit, 0);
    assert!(rest.body == data);
    stage.broker.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_named_and_stored_pages_are_harmless() {
    let stage = Stage::set(&[]).await;
    let html = ["-d", "<script>alert(1)</script>", "-H", "Content-Type: text/html", "-H", "Mts-Ttl: 300ms"];
    stage.curl(&html, "/v1/messages/page").await.expect(201);
    let page = stage.curl(&[], "/v1/messages/page/1").await;
    if page.status == 200 {
        assert!(page.header("content-security-policy").starts_with("sandbox; default-src 'none'"));
        assert_eq!((page.header("content-type"), page.header("x-content-type-options")), ("text/html", "nosniff"));
    }
    until("the message expires", async || stage.curl(&[], "/v1/messages/page/1").await.status == 404).await;
    for (path, status, text) in [
        ("/v1/messages/page/1", 404, "expired"),
        ("/v1/messages/page/last", 404, "no message"),
        ("/v1/messages/none/7", 404, "no message 7"),
        ("/v1/messages/page/film.mp4", 400, "film.mp4"),
        ("/v1/messages/page", 400, "/last"),
    ] {
        let refused = stage.curl(&[], path).await.expect(status);
        assert!(refused.error().contains(text), "{path}: {}", refused.error());
    }
    let series = r#"minitoolstream_latency_seconds_count{operation="http_get",service="egress"}"#;
    assert!(http::metric(stage.broker.http, series).await >= 6);
    let series = r#"minitoolstream_latency_seconds_count{operation="http_put",service="ingress"}"#;
    assert_eq!(http::metric(stage.broker.http, series).await, 1);
    stage.broker.stop().await;
}
