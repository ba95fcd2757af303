use actix_web::{
    http::StatusCode,
    http::header::{HOST, HeaderMap, HeaderValue, ORIGIN},
};

use super::refusal::Refusal;

/// Browsers say in this header which site made them send a request.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses what a browser sends because a page of another site wants it to: any page can make it write to an address that
/// only this machine reaches. Programs send neither header.
pub(super) fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Refusal> {
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    // "none" is what the user did without any page.
    let foreign_site = site.is_some_and(|site| site != b"same-origin" && site != b"none");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host))
    };
    let foreign_origin = headers.get_all(ORIGIN).find(|origin| !is_own(origin));
    if !foreign_site && foreign_origin.is_none() {
        return Ok(());
    }
    let from = foreign_origin.map_or("another site".into(), |origin| format!("{origin:?}"));
    let text =
        format!("a page of {from} may not write here: send the request from a page of this server, or from a program");
    Err(Refusal::new(StatusCode::FORBIDDEN, text))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_programs_and_own_pages_may_write() {
        for (header, value, passes) in [
            ("accept", "*/*", true),
            ("origin", "http://127.0.0.1:8080", true),
            ("origin", "https://127.0.0.1:8080", true),
            ("origin", "http://127.0.0.1:3000", false),
            ("origin", "http://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
        ] {
            let request =
                TestRequest::default().insert_header(("host", "127.0.0.1:8080")).insert_header((header, value));
            let allowed = refuse_other_sites(request.to_http_request().headers());
            assert_eq!(allowed.is_ok(), passes, "{header}: {value}");
        }
    }
}
