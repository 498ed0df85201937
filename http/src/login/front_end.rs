//! Where a browser is sent after logging in: to the web client and nowhere else. The token goes in the query, since that is where
//! the web client looks for it; so a redirect to a stranger would hand it over.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, LOCATION, REFERRER_POLICY};
use url::Url;

/// Longest `redirect`.
const REDIRECT_BYTES_MAX: usize = 1024;

/// `redirect`, when it is at the web client's origin and could be meant: no credentials in it.
pub fn allowed(redirect: &str, frontend_base_url: &str) -> Option<Url> {
    if redirect.len() > REDIRECT_BYTES_MAX {
        return None;
    }
    let (redirect, front_end) = (Url::parse(redirect).ok()?, Url::parse(frontend_base_url).ok()?);
    let has_credentials = !redirect.username().is_empty() || redirect.password().is_some();
    // An opaque origin equals nothing, not even itself.
    (redirect.origin() == front_end.origin() && !has_credentials).then_some(redirect)
}

/// `to` with the token, as the reference sends it: with `/applications` behind it unless that is in it.
pub fn with_token(to: &Url, token: &str) -> HttpResponse {
    let mut to = to.clone();
    if !to.as_str().contains("applications") {
        let path = format!("{}/applications", to.path().trim_end_matches('/'));
        to.set_path(&path);
    }
    with(to, "jwt", token)
}

/// `to` with a code that says what went wrong.
pub fn with_error(to: &Url, code: &str) -> HttpResponse {
    with(to.clone(), "error", code)
}

fn with(mut to: Url, name: &str, value: &str) -> HttpResponse {
    let kept: Vec<(String, String)> =
        to.query_pairs().filter(|(key, _)| key != "jwt" && key != "error").map(|(k, v)| (k.into(), v.into())).collect();
    to.query_pairs_mut().clear().extend_pairs(kept).append_pair(name, value);
    away(to.as_str())
}

/// A redirect that is kept nowhere and tells the next place nothing of this one.
pub fn away(to: &str) -> HttpResponse {
    HttpResponse::build(StatusCode::FOUND)
        .insert_header((LOCATION, to))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((HeaderName::from_static("pragma"), "no-cache"))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT_END: &str = "https://iot.example.org";

    #[test]
    fn only_the_web_clients_origin_is_allowed() {
        for good in
            ["https://iot.example.org", "https://iot.example.org:443/applications?x=1#y", "HTTPS://IOT.example.org/"]
        {
            assert!(allowed(good, FRONT_END).is_some(), "{good}");
        }
        let long = format!("{FRONT_END}/{}", "x".repeat(REDIRECT_BYTES_MAX));
        for bad in [
            "",
            "/applications",
            "//iot.example.org",
            "http://iot.example.org",
            "https://iot.example.org:8443",
            "https://iot.example.org.evil.example",
            "https://iot.example.org@evil.example",
            "https://user:pass@iot.example.org",
            "https://evil.example/https://iot.example.org",
            "https:\\\\evil.example\\iot.example.org",
            "https://evil.example\\@iot.example.org",
            "javascript:alert(1)//https://iot.example.org",
            "data:text/html,x",
            &long,
        ] {
            assert!(allowed(bad, FRONT_END).is_none(), "{bad}");
        }
        assert!(allowed("data:text/html,x", "data:text/html,x").is_none());
    }

    #[test]
    fn token_and_error_are_added_as_the_web_client_reads_them() {
        let location = |response: HttpResponse| response.headers().get(LOCATION).unwrap().to_str().unwrap().to_owned();
        let to = |text: &str| Url::parse(text).unwrap();
        for (url, expected) in [
            ("http://localhost:8081", "http://localhost:8081/applications?jwt=a.b-c_d"),
            ("http://localhost:8081/iot/", "http://localhost:8081/iot/applications?jwt=a.b-c_d"),
            ("http://localhost:8081/applications?page=2", "http://localhost:8081/applications?page=2&jwt=a.b-c_d"),
            ("http://localhost:8081/applications?jwt=old", "http://localhost:8081/applications?jwt=a.b-c_d"),
        ] {
            assert_eq!(location(with_token(&to(url), "a.b-c_d")), expected);
        }
        assert_eq!(
            location(with_error(&to("http://localhost:8081/applications"), "MESSAGE.USER-INACTIVE")),
            "http://localhost:8081/applications?error=MESSAGE.USER-INACTIVE"
        );
    }
}
