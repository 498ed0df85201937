//! KOMBIT's log-in end to end: a browser, our API, and an identity provider with real signatures.

use std::collections::HashMap;

use serde_json::{Value, json};
use sluse_engine::login::{Kombit, KombitSettings};
use sluse_schema::secret::Secret;

use crate::fixture::{Api, BACKEND, FRONTEND};
use crate::identity_provider::{
    ENTITY_ID, Method, NAME_ID, Pair, ROLE, Say, assertion, encrypted, posted, query, read_request, response, sign,
    unsigned,
};
use crate::kombit_rig::{Answer, Rig, serde_urlencoded, settings};

/// The code that a browser was sent on with.
fn code(answer: &Answer) -> String {
    assert_eq!(answer.status, 302, "{answer:?}");
    let mut values: HashMap<String, String> = query(&answer.location);
    assert!(!values.contains_key("jwt"), "{answer:?}");
    values.remove("error").unwrap_or_default()
}

const FAILED: &str = "MESSAGE.KOMBIT-LOGIN-FAILED";

#[tokio::test]
async fn somebody_new_is_let_in_made_a_user_and_found_again() {
    let rig = Rig::start().await;
    let left = rig.leave(Some(&format!("{FRONTEND}/applications"))).await;
    let back = rig.come_back(&left, &rig.good(&left, |_| ())).await;
    assert_eq!(back.status, 302, "{back:?}");
    assert!(back.location.starts_with(&format!("{FRONTEND}/applications?jwt=")), "{}", back.location);
    assert!(back.cookies.iter().any(|c| c.contains("Max-Age=0")), "the attempt is over: {:?}", back.cookies);
    let token = query(&back.location)["jwt"].clone();
    let (status, me) = rig.api.call("GET", "/auth/me", Some(&token), None).await;
    assert_eq!(status, 200, "{me}");
    let user = &me["user"];
    assert_eq!((&user["name"], &user["nameId"]), (&json!("Åse <Ek>"), &json!(NAME_ID)));
    assert_eq!((&user["email"], &user["active"]), (&Value::Null, &json!(true)));
    assert_eq!((&user["showWelcomeScreen"], &user["permissions"]), (&json!(true), &json!([])));
    assert!(user["lastLogin"].is_string());
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (&claims["isKombit"], &claims["username"], &claims["sub"]),
        (&json!(true), &json!(NAME_ID), &user["id"])
    );

    rig.log_in().await;
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 1);
    let of = |action: &str| {
        format!(
            "SELECT count(*) FROM change_log l JOIN app_user u ON u.id = l.entity_id WHERE l.entity = 'user' AND \
             l.action = '{action}' AND u.name_id IS NOT NULL AND l.remote_address = '127.0.0.1' AND \
             l.request_id IS NOT NULL"
        )
    };
    assert_eq!((rig.api.number(&of("CREATE")).await, rig.api.number(&of("LOGIN")).await), (1, 2));
}

#[tokio::test]
async fn without_a_redirect_the_web_client_is_where_one_goes_and_an_error_is_an_answer() {
    let rig = Rig::start().await;
    let left = rig.leave(None).await;
    let back = rig.come_back(&left, &rig.good(&left, |_| ())).await;
    assert!(back.location.starts_with(&format!("{FRONTEND}/applications?jwt=")), "{back:?}");
    let left = rig.leave(None).await;
    let back = rig.come_back(&left, &rig.good(&left, |say| say.privileges.clear())).await;
    assert_eq!(back.status, 401);
    let keys: Vec<_> = back.body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["statusCode", "timestamp", "path"]);
}

#[tokio::test]
async fn nobody_is_sent_elsewhere_than_to_the_web_client() {
    let rig = Rig::start().await;
    for redirect in [
        "https://evil.example/applications",
        "http://localhost:8081.evil.example",
        "http://localhost:8081@evil.example/",
        "//evil.example",
        "javascript:alert(1)",
    ] {
        let left = rig.get(&format!("/auth/kombit/login?{}", serde_urlencoded(&[("redirect", redirect)]))).await;
        assert_eq!((left.status, left.location.as_str()), (400, ""), "{redirect}");
    }
    // The reference read a cookie of this name.
    let left = rig.leave(None).await;
    let cookies = format!("redirect=https://evil.example; {}", left.cookie);
    let form = posted(&rig.good(&left, |_| ()));
    let back = rig.post(Some(&cookies), &[("SAMLResponse", &form)]).await;
    assert!(back.location.starts_with(FRONTEND), "{back:?}");
}

#[tokio::test]
async fn a_response_is_good_once() {
    let rig = Rig::start().await;
    let left = rig.leave(Some(FRONTEND)).await;
    let xml = rig.good(&left, |_| ());
    assert!(rig.come_back(&left, &xml).await.location.contains("jwt="));
    assert_eq!(code(&rig.come_back(&left, &xml).await), FAILED, "the same response");
    let again = rig.good(&left, |_| ());
    assert_eq!(code(&rig.come_back(&left, &again).await), FAILED, "another response to the same request");
}

#[tokio::test]
async fn what_one_browser_began_no_other_finishes() {
    let rig = Rig::start().await;
    let (mine, theirs) = (rig.leave(Some(FRONTEND)).await, rig.leave(Some(FRONTEND)).await);
    assert_eq!(code(&rig.come_back(&mine, &rig.good(&theirs, |_| ())).await), FAILED);
    let form = posted(&rig.good(&theirs, |_| ()));
    assert_eq!(rig.post(None, &[("SAMLResponse", &form)]).await.status, 401, "a browser that never left");
    let forged = format!("{}x", theirs.cookie);
    assert_eq!(rig.post(Some(&forged), &[("SAMLResponse", &form)]).await.status, 401);
    let back = rig.post(Some(&theirs.cookie), &[("SAMLResponse", &form)]).await;
    assert!(back.location.contains("jwt="), "none of this used it up: {back:?}");
}

#[tokio::test]
async fn a_response_that_is_not_the_providers_to_us_now_is_refused() {
    let rig = Rig::start().await;
    let stranger = Pair::new("stranger");
    let left = rig.leave(Some(FRONTEND)).await;
    let say = rig.say(&left);
    let with = |change: fn(&mut Say)| rig.good(&left, change);
    let cases = [
        ("unsigned", response(&say, &unsigned(&rig.signed(&say)), None)),
        ("signed around, not in", response(&say, &unsigned(&rig.signed(&say)), Some(&rig.provider.key))),
        ("another key", response(&say, &sign(&assertion(&say, "_a"), &stranger.key), None)),
        ("another key around", response(&say, &rig.signed(&say), Some(&stranger.key))),
        ("changed afterwards", with(|_| ()).replace("12345678 //", "87654321 //")),
        ("another audience", with(|say| say.audience = "https://other.example.org".into())),
        ("another recipient", with(|say| say.recipient = "https://other.example.org/acs".into())),
        ("another destination", with(|say| say.destination = "https://other.example.org/acs".into())),
        ("another request", with(|say| say.in_response_to = "_other".into())),
        ("another request inside", with(|say| say.assertion_in_response_to = "_other".into())),
        ("expired", with(|say| say.issued_at -= chrono::TimeDelta::minutes(10))),
        ("of the future", with(|say| say.issued_at += chrono::TimeDelta::minutes(10))),
        ("another issuer", with(|_| ()).replace(ENTITY_ID, "https://other.example.org")),
        ("an OpenID Connect name", with(|say| say.name_id = "oidc:https://idp#7".into())),
        ("no name", with(|say| say.name_id = " ".into())),
        (
            "SHA-1",
            with(|say| {
                say.signature = "http://www.w3.org/2000/09/xmldsig#rsa-sha1";
                say.digest = "http://www.w3.org/2000/09/xmldsig#sha1";
            }),
        ),
        ("a failure", with(|_| ()).replace("status:Success", "status:Responder")),
        ("not XML", "hello".to_owned()),
        ("a DTD", format!("<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>{}", with(|_| ()))),
        ("nothing", String::new()),
    ];
    for (what, xml) in cases {
        assert_eq!(code(&rig.come_back(&left, &xml).await), FAILED, "{what}");
    }
    assert_eq!(code(&rig.post(Some(&left.cookie), &[("SAMLResponse", "%%%")]).await), FAILED);
    assert_eq!(code(&rig.post(Some(&left.cookie), &[("SAMLrequest", "x")]).await), FAILED);
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 0);
    let back = rig.come_back(&left, &with(|_| ())).await;
    assert!(back.location.contains("jwt="), "what was refused did not use the attempt up: {back:?}");
}

#[tokio::test]
async fn a_forged_assertion_around_beside_or_inside_the_signed_one_is_refused() {
    let rig = Rig::start().await;
    let left = rig.leave(Some(FRONTEND)).await;
    let say = rig.say(&left);
    let mut evil = say.clone();
    evil.name_id = "CN=Evil".to_owned();
    let signed = rig.signed(&say);
    let forged = unsigned(&assertion(&evil, "_evil"));
    let (open, close) = ("<saml:Subject>", "</saml:Assertion>");
    // The signature moved into the forged one, still over the other.
    let moved = {
        let start = signed.find("<ds:Signature ").unwrap();
        let end = signed.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
        forged.replacen(open, &format!("{}{open}", &signed[start..end]), 1)
    };
    let whole = response(&say, &signed, Some(&rig.provider.key));
    let cases = [
        ("before", response(&say, &format!("{forged}{signed}"), None)),
        ("behind", response(&say, &format!("{signed}{forged}"), None)),
        ("around", response(&say, &forged.replacen(close, &format!("{signed}{close}"), 1), None)),
        ("inside", response(&say, &signed.replacen(close, &format!("{forged}{close}"), 1), None)),
        ("under the other's id", response(&say, &moved.replace("_evil", "_assertion"), None)),
        ("with the signature, beside", response(&say, &format!("{moved}{}", unsigned(&signed)), None)),
        (
            "signed one in an extension",
            response(&say, &format!("<samlp:Extensions>{signed}</samlp:Extensions>{forged}"), None),
        ),
        (
            "in a response that is signed, too",
            whole.replacen("<saml:Assertion ", &format!("{forged}<saml:Assertion "), 1),
        ),
        (
            "around a response that is signed, too",
            response(&say, &format!("<samlp:Extensions>{whole}</samlp:Extensions>{forged}"), None).replacen(
                "ID=\"_response\"",
                "ID=\"_outer\"",
                1,
            ),
        ),
        (
            "in an object of the signature",
            response(
                &say,
                &signed.replacen("</ds:Signature>", &format!("<ds:Object>{forged}</ds:Object></ds:Signature>"), 1),
                None,
            ),
        ),
    ];
    for (what, xml) in cases {
        assert_eq!(code(&rig.come_back(&left, &xml).await), FAILED, "{what}");
    }
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_comment_in_a_name_does_not_make_another_name_of_it() {
    let rig = Rig::start().await;
    let left = rig.leave(Some(FRONTEND)).await;
    // Canonical form leaves comments out, so the signature still holds; a careless reader would stop at the comment.
    let xml =
        rig.good(&left, |say| say.name_id = "CN=admin.evil.example".into()).replace("CN=admin.", "CN=admin<!-- x -->.");
    let back = rig.come_back(&left, &xml).await;
    assert!(back.location.contains("jwt="), "{back:?}");
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id = 'CN=admin.evil.example'").await, 1);
}

#[tokio::test]
async fn a_response_signed_around_and_inside_is_let_in() {
    let rig = Rig::start().await;
    let left = rig.leave(Some(FRONTEND)).await;
    let say = rig.say(&left);
    let xml = response(&say, &rig.signed(&say), Some(&rig.provider.key));
    assert!(rig.come_back(&left, &xml).await.location.contains("jwt="));
}

#[tokio::test]
async fn encrypted_assertions_are_read_and_have_to_be_signed_inside() {
    let rig = Rig::start().await;
    let ours = &rig.service.certificate;
    for method in [Method::Cbc256, Method::Gcm128] {
        for around in [None, Some(&rig.provider.key)] {
            let left = rig.leave(Some(FRONTEND)).await;
            let say = rig.say(&left);
            let xml = response(&say, &encrypted(&rig.signed(&say), ours, method), around);
            assert!(rig.come_back(&left, &xml).await.location.contains("jwt="), "{method:?}");
        }
    }
    let left = rig.leave(Some(FRONTEND)).await;
    let say = rig.say(&left);
    let (signed, stranger) = (rig.signed(&say), Pair::new("stranger"));
    let inside = |assertion: &str| encrypted(assertion, ours, Method::Gcm128);
    let good = inside(&signed);
    let cases = [
        ("unsigned inside", response(&say, &inside(&unsigned(&signed)), None)),
        ("signed around only", response(&say, &inside(&unsigned(&signed)), Some(&rig.provider.key))),
        ("another key inside", response(&say, &inside(&sign(&assertion(&say, "_a"), &stranger.key)), None)),
        ("another key around", response(&say, &good, Some(&stranger.key))),
        ("for somebody else", response(&say, &encrypted(&signed, &stranger.certificate, Method::Cbc256), None)),
        ("under RSA 1.5", response(&say, &encrypted(&signed, ours, Method::Gcm128UnderRsa15), None)),
        ("not an assertion", response(&say, &inside("<x/>"), None)),
        ("not XML", response(&say, &inside("hello"), None)),
        ("two", response(&say, &format!("{good}{good}"), None)),
        ("beside a forged one", response(&say, &format!("{good}{}", unsigned(&assertion(&say, "_evil"))), None)),
        ("two inside", response(&say, &inside(&format!("{signed}{signed}")), None)),
        (
            "cut short",
            response(
                &say,
                &good
                    .replace("<xenc:CipherValue>", "<xenc:CipherValue>AAAA</xenc:CipherValue><x>")
                    .replace("</xenc:CipherValue></xenc:CipherData>", "</x></xenc:CipherData>"),
                None,
            ),
        ),
    ];
    for (what, xml) in cases {
        assert_eq!(code(&rig.come_back(&left, &xml).await), FAILED, "{what}");
    }
}

#[tokio::test]
async fn the_role_is_asked_for() {
    let rig = Rig::start().await;
    for privileges in [vec![], vec!["http://other.example.org/roles/adgang/1".to_owned()]] {
        let left = rig.leave(Some(FRONTEND)).await;
        let xml = rig.good(&left, |say| say.privileges = privileges);
        assert_eq!(code(&rig.come_back(&left, &xml).await), "MissingRole");
    }
    let left = rig.leave(Some(FRONTEND)).await;
    let several = vec!["http://other.example.org/roles/1".to_owned(), format!("{ROLE}2")];
    let xml = rig.good(&left, |say| say.privileges = several);
    assert!(rig.come_back(&left, &xml).await.location.contains("jwt="));
}

#[tokio::test]
async fn somebody_inactive_or_expired_is_not_let_in() {
    let rig = Rig::start().await;
    let token = rig.log_in().await;
    let client = rig.api.store.pool().get().await.unwrap();
    for change in ["active = false", "active = true, expires_on = now() - interval '1 day'"] {
        client.execute(&format!("UPDATE app_user SET {change} WHERE name_id IS NOT NULL"), &[]).await.unwrap();
        let left = rig.leave(Some(FRONTEND)).await;
        let xml = rig.good(&left, |_| ());
        assert_eq!(code(&rig.come_back(&left, &xml).await), "MESSAGE.USER-INACTIVE", "{change}");
    }
    drop(token);
}

#[tokio::test]
async fn logging_out_ends_the_session_here_and_at_the_provider() {
    let rig = Rig::start().await;
    let token = rig.log_in().await;
    assert_eq!(rig.get("/auth/kombit/logout").await.status, 401);
    assert_eq!(rig.get("/auth/kombit/logout?secret_token=x").await.status, 401);
    let me = format!("/auth/me?secret_token={token}");
    assert_eq!(rig.get(&me).await.status, 401, "nowhere else is a token taken from the query");
    let out = rig.get(&format!("/auth/kombit/logout?secret_token={token}")).await;
    assert_eq!(out.status, 302, "{out:?}");
    let request = read_request(&out.location, &rig.service.certificate);
    let document = roxmltree::Document::parse(&request.xml).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "LogoutRequest");
    let name = document.descendants().find(|node| node.tag_name().name() == "NameID").unwrap();
    assert_eq!(name.text(), Some(NAME_ID), "with its ampersand");
    assert_eq!(rig.api.call("GET", "/auth/me", Some(&token), None).await.0, 401);
    assert_eq!(rig.api.number("SELECT count(*) FROM change_log WHERE action = 'LOGOUT'").await, 1);
    let done = rig.get("/auth/kombit/logout/callback?SAMLResponse=x").await;
    assert_eq!((done.status, done.body), (200, json!("Logged out ...")));
    rig.log_in().await;
}

#[tokio::test]
async fn metadata_say_what_is_done() {
    let rig = Rig::start().await;
    let response = rig.api.browser.get(format!("{}/auth/kombit/metadata", rig.api.base)).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/xml"));
    let xml = response.text().await.unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let find = |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
    let base = format!("{BACKEND}/api/v1/auth/kombit");
    assert_eq!(document.root_element().attribute("entityID"), Some(format!("{base}/metadata").as_str()));
    let service = find("SPSSODescriptor").next().unwrap();
    assert_eq!(service.attribute("AuthnRequestsSigned"), Some("true"));
    assert_eq!(service.attribute("WantAssertionsSigned"), Some("true"));
    let uses: Vec<_> = find("KeyDescriptor").filter_map(|node| node.attribute("use")).collect();
    assert_eq!(uses, ["signing", "encryption"]);
    let der =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, rig.service.certificate.to_der().unwrap());
    assert!(find("X509Certificate").all(|node| node.text() == Some(der.as_str())));
    let callback = find("AssertionConsumerService").next().unwrap();
    assert_eq!(callback.attribute("Location"), Some(format!("{base}/login/callback").as_str()));
    assert!(callback.attribute("Binding").unwrap().ends_with(":HTTP-POST"));
    assert!(find("SingleLogoutService").next().unwrap().attribute("Binding").unwrap().ends_with(":HTTP-Redirect"));
}

#[tokio::test]
async fn the_request_is_what_a_provider_can_answer() {
    let rig = Rig::start().await;
    let left = rig.get("/auth/kombit/login").await;
    assert!(left.location.starts_with("https://idp.example.org/sso?tenant=1&SAMLRequest="), "{}", left.location);
    let request = read_request(&left.location, &rig.service.certificate);
    let document = roxmltree::Document::parse(&request.xml).unwrap();
    let root = document.root_element();
    let base = format!("{BACKEND}/api/v1/auth/kombit");
    assert_eq!(root.attribute("AssertionConsumerServiceURL"), Some(format!("{base}/login/callback").as_str()));
    assert_eq!(root.first_element_child().unwrap().text(), Some(format!("{base}/metadata").as_str()));
    let other = read_request(&rig.get("/auth/kombit/login").await.location, &rig.service.certificate);
    assert_ne!(request.id, other.id);
    let set = &left.cookies[0];
    for part in ["HttpOnly", "Secure", "SameSite=None", "Path=/api/v1/auth", "Max-Age=900"] {
        assert!(set.contains(part), "{set}");
    }
}

#[tokio::test]
async fn without_configuration_every_route_says_so() {
    let api = Api::start().await;
    for (method, path) in [
        ("GET", "/auth/kombit/login?redirect=http://localhost:8081"),
        ("GET", "/auth/kombit/logout/callback"),
        ("GET", "/auth/kombit/metadata"),
        ("GET", "/auth/oidc/login"),
        ("GET", "/auth/oidc/callback?code=x&state=y"),
    ] {
        let (status, body) = api.call(method, path, None, None).await;
        assert_eq!(status, 404, "{path}: {body}");
        assert!(body["message"].as_str().unwrap().contains("is not configured"), "{path}: {body}");
    }
    assert_eq!(api.call("GET", "/auth/kombit/logout", None, None).await.0, 401);
    assert_eq!(api.call("GET", "/auth/kombit/logout", Some(&api.admin), None).await.0, 404);
    let response = api
        .browser
        .post(format!("{}/auth/kombit/login/callback", api.base))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("SAMLResponse=x")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 404);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let (provider, service) = (Pair::new("idp"), Pair::new("sluse"));
    let good = settings(&provider, &service);
    assert!(Kombit::new(&good).is_ok());
    type Change = fn(&mut KombitSettings);
    let cases: [(&str, Change); 4] = [
        ("KOMBIT_ENTRYPOINT", |s| s.entry_point = "idp.example.org".into()),
        ("KOMBIT_CERTIFICATEPUBLICKEY", |s| s.certificate = "INSERT".into()),
        ("KOMBIT_CERTIFICATEPRIVATEKEY", |s| s.private_key = Secret::new("-----BEGIN PRIVATE KEY-----\nhunter2")),
        ("kombit.own_certificate", |s| s.own_certificate = s.certificate.clone()),
    ];
    for (name, change) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let error = Kombit::new(&bad).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
    }
}
