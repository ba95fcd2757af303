//! SHA-256 as HTTP writes it.

use actix_web::http::header::HeaderMap;
use base64::{Engine, prelude::BASE64_STANDARD};

use super::announced::text;
use crate::error::{Error, Result};

/// The digest that the data must have: in hexadecimal, or as RFC 9530 and RFC 3230 write it.
pub(super) fn announced(headers: &HeaderMap) -> Result<Option<Vec<u8>>> {
    let mut found: Option<Vec<u8>> = None;
    for name in ["mts-sha256", "repr-digest", "digest"] {
        let Some(given) = text(headers, name)? else { continue };
        let digest = match name {
            "mts-sha256" => Some(from_hex(given)),
            _ => given.split(',').find_map(|digest| {
                let (algorithm, value) = digest.trim().split_once('=')?;
                algorithm.eq_ignore_ascii_case("sha-256").then(|| BASE64_STANDARD.decode(value.trim_matches(':')).ok())
            }),
        };
        let Some(digest) = digest else { continue };
        let Some(digest) = digest.filter(|digest| digest.len() == 32) else {
            return Err(Error::invalid(name, format!("'{given}' is no SHA-256")));
        };
        if found.as_ref().is_some_and(|other| *other != digest) {
            return Err(Error::invalid(name, "differs from another digest of the request"));
        }
        found = Some(digest);
    }
    Ok(found)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::types::hex;

    fn read(headers: &[(&str, &str)]) -> Result<Option<Vec<u8>>> {
        let request = headers.iter().fold(TestRequest::default(), |request, header| request.insert_header(*header));
        announced(request.to_http_request().headers())
    }

    #[test]
    fn digests_are_read_in_three_forms_and_must_agree() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let structured = "md5=:AAAA:, sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let old = "SHA-256=ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        for given in [("mts-sha256", hex), ("repr-digest", structured), ("digest", old)] {
            assert_eq!(read(&[given]).unwrap().unwrap()[..2], [0xba, 0x78], "{given:?}");
        }
        assert!(read(&[("digest", "md5=AAAA")]).unwrap().is_none());
        let zeros = "0".repeat(64);
        for wrong in
            [&[("mts-sha256", "ba78")][..], &[("digest", "sha-256=x")], &[("mts-sha256", &zeros), ("digest", old)]]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let digest: [u8; 32] = std::array::from_fn(|index| u8::try_from(index * 8).unwrap());
        assert_eq!(from_hex(&hex(&digest)), Some(digest.to_vec()));
        assert_eq!(from_hex("abc"), None);
        assert_eq!(from_hex("é"), None);
    }
}
