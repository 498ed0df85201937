//! Being let into organisations, and the mails that go with it: over a real SMTP server.

use std::sync::Arc;

use serde_json::{Value, json};
use sluse_engine::config::MailTls;
use sluse_engine::mail::SmtpMailer;
use sluse_schema::port::{Mail, MailBody, MailError, Mailer};
use sluse_schema::secret::Secret;

use crate::fixture::Api;
use crate::golden::Golden;
use crate::smtp::SmtpServer;

/// Somebody whom an identity provider sent: no address, no groups. With a password in the database, so that he can log in here.
async fn newcomer(api: &Api, name: &str) -> (Value, String) {
    let made = api
        .made("/user", json!({"name": name, "email": "temporary@example.org", "password": "Sesame-11", "active": true}))
        .await;
    let token = api.log_in("temporary@example.org", "Sesame-11").await;
    api.sql(&format!("UPDATE app_user SET email = NULL, name_id = 'CN={name}' WHERE id = {}", made["id"])).await;
    (made["id"].clone(), token)
}

#[tokio::test]
async fn asking_being_let_in_and_being_sent_away() {
    let smtp = SmtpServer::start();
    let api = Api::start_with_mail(smtp.mailer()).await;
    let mut golden = Golden::new("access");
    let tenant = api.tenant("Aarhus", &["OrganizationUserAdmin", "Read"]).await;
    let other = api.made("/organization", json!({"name": "<b>Ballerup</b>"})).await["id"].clone();
    let (id, token) = newcomer(&api, "Nina <script>alert(1)</script>").await;
    let call = |method: &'static str, path: String, body: Option<Value>| {
        let (api, token) = (&api, token.clone());
        async move { api.call(method, &path, Some(&token), body).await }
    };
    golden.note("himself", call("GET", format!("/kombitCreation/{id}?extendedInfo=true"), None).await);
    golden.note("somebody else", call("GET", format!("/kombitCreation/{}", tenant.user), None).await);
    let create = "/kombitCreation/createNewKombitUser".to_owned();
    golden.note(
        "invalid",
        call("PUT", create.clone(), Some(json!({"email": "x", "requestedOrganizationIds": []}))).await,
    );
    golden.note(
        "e-mail in use",
        call("PUT", create.clone(), Some(json!({"email": "AARHUS@example.org", "requestedOrganizationIds": [other]})))
            .await,
    );
    golden.note(
        "unknown organisation",
        call("PUT", create.clone(), Some(json!({"email": "nina@example.org", "requestedOrganizationIds": [999_999]})))
            .await,
    );
    assert!(smtp.is_empty());
    let body = json!({"email": "nina@example.org", "requestedOrganizationIds": [tenant.organization]});
    golden.note("create", call("PUT", create.clone(), Some(body.clone())).await);
    golden.note("create again", call("PUT", create, Some(body)).await);
    let mail = smtp.next();
    assert_eq!(mail.to(), ["aarhus@example.org"], "the organisation's administrator");
    let text = mail.text();
    assert!(text.contains("Ny anmodning om adgang til Aarhus"), "{text}");
    assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && text.contains("nina@example.org"), "{text}");

    let more = "/kombitCreation/updateUserOrgs".to_owned();
    let body = json!({"requestedOrganizationIds": [other, tenant.organization]});
    golden.note("ask for more", call("PUT", more.clone(), Some(body.clone())).await);
    let mail = smtp.next();
    assert_eq!(mail.to(), ["admin@example.org"], "without administrators of its own: the global one");
    assert!(mail.text().contains("organisationen &lt;b&gt;Ballerup&lt;/b&gt;"), "{}", mail.text());
    call("PUT", more, Some(body)).await;
    assert!(smtp.is_empty(), "nobody is written about what he knows");

    let admin = |method: &'static str, path: String, body: Option<Value>| {
        let (api, token) = (&api, tenant.token.clone());
        async move { api.call(method, &path, Some(&token), body).await }
    };
    golden.note("waiting", admin("GET", "/user/awaitingUsers".into(), None).await);
    golden.note(
        "waiting for the organisation",
        admin("GET", format!("/user/awaitingUsers/{}", tenant.organization), None).await,
    );
    assert_eq!(admin("GET", format!("/user/awaitingUsers/{other}"), None).await.0, 403);
    golden.note("who waits", admin("GET", format!("/user/{id}"), None).await);
    let accept = |organization: &Value, user: &Value, groups: Value| {
        Some(json!({"organizationId": organization, "userId": user, "permissionIds": groups}))
    };
    let path = "/permission/acceptUser".to_owned();
    golden.note("accept for others", admin("PUT", path.clone(), accept(&other, &id, json!([tenant.group]))).await);
    golden
        .note("accept without groups", admin("PUT", path.clone(), accept(&tenant.organization, &id, json!([]))).await);
    golden.note(
        "accept with foreign groups",
        admin("PUT", path.clone(), accept(&tenant.organization, &id, json!([1]))).await,
    );
    golden.note(
        "accept somebody who did not ask",
        admin("PUT", path.clone(), accept(&tenant.organization, &json!(1), json!([tenant.group]))).await,
    );
    golden.note(
        "accept",
        admin("PUT", path.clone(), accept(&tenant.organization, &id, json!([tenant.group, 1, null]))).await,
    );
    golden.note("accept again", admin("PUT", path, accept(&tenant.organization, &id, json!([tenant.group]))).await);
    let mail = smtp.next();
    assert_eq!(mail.to(), ["nina@example.org"]);
    assert!(mail.text().contains("Din anmodning om adgang til organisationen Aarhus er godkendt."), "{}", mail.text());
    assert_eq!(
        api.number(&format!("SELECT count(*) FROM permission_user WHERE user_id = {id}")).await,
        1,
        "not the group of global administrators"
    );

    let reject = json!({"orgId": other, "userIdToReject": id});
    assert_eq!(admin("PUT", "/user/rejectUser".into(), Some(reject.clone())).await.0, 403);
    golden.note("reject", api.put("/user/rejectUser", reject.clone()).await);
    golden.note("reject again", api.put("/user/rejectUser", reject).await);
    golden.note("reject invalid", api.put("/user/rejectUser", json!({"orgId": "x"})).await);
    assert!(smtp.next().text().contains("er afvist"), "he is told");
    golden.check();
}

#[tokio::test]
async fn without_mail_nothing_changes_and_nothing_hangs() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["OrganizationUserAdmin"]).await;
    let (id, token) = newcomer(&api, "Nina").await;
    let body = json!({"email": "nina@example.org", "requestedOrganizationIds": [tenant.organization]});
    let ask = || api.call("PUT", "/kombitCreation/createNewKombitUser", Some(&token), Some(body.clone()));
    let (status, answer) = ask().await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.SEND-MAIL-ERROR")));
    assert_eq!(ask().await.1["message"], "MESSAGE.SEND-MAIL-ERROR", "he still has no address");
    api.sql(&format!("INSERT INTO user_requested_organization VALUES ({id}, {}); UPDATE app_user SET email = 'nina@example.org' WHERE id = {id}", tenant.organization)).await;
    let reject = json!({"orgId": tenant.organization, "userIdToReject": id});
    assert_eq!(api.put("/user/rejectUser", reject).await.1["message"], "MESSAGE.SEND-MAIL-ERROR");
    let accept = json!({"organizationId": tenant.organization, "userId": id, "permissionIds": [tenant.group]});
    assert_eq!(api.put("/permission/acceptUser", accept).await.1["message"], "MESSAGE.SEND-MAIL-ERROR");
    assert_eq!(api.number("SELECT count(*) FROM user_requested_organization").await, 1, "he still waits");
}

fn mail(to: &str) -> Mail {
    Mail::new(vec![to.to_owned()], "Blåbærgrød\r\nBcc: all@example.org", MailBody::new().paragraph("Hej & <farvel>"))
}

#[tokio::test]
async fn a_password_goes_over_tls_to_a_server_that_is_known() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let smtp = SmtpServer::start_with(&[certificate.to_str().unwrap(), key.to_str().unwrap(), "rita", "s3cret"]);
    let config = |password: &str, is_known: bool| {
        let mut config = smtp.config();
        config.host = "localhost".into();
        config.tls = MailTls::StartTls;
        config.credentials = Some(("rita".into(), Secret::new(password)));
        config.ca_certificates = is_known.then(|| certificate.clone());
        config
    };
    let mailer = SmtpMailer::new(&config("s3cret", true)).unwrap();
    mailer.send(&mail("nina@example.org")).await.unwrap();
    let received = smtp.next();
    assert_eq!((&received.0["tls"], &received.0["user"]), (&json!(true), &json!("rita")));
    assert_eq!(received.0["from"], "sluse@example.org");
    let text = received.text();
    assert!(text.contains("Hej & <farvel>") && text.contains("Hej &amp; &lt;farvel&gt;"), "{text}");
    assert!(!text.contains("\nBcc:"), "{text}");

    let wrong = SmtpMailer::new(&config("wrong", true)).unwrap().send(&mail("nina@example.org")).await.unwrap_err();
    assert!(matches!(wrong, MailError::Refused(_)), "{wrong}");
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    let unknown = SmtpMailer::new(&config("s3cret", false)).unwrap().send(&mail("nina@example.org")).await.unwrap_err();
    assert!(matches!(unknown, MailError::Unavailable(_)), "{unknown}");
    assert!(smtp.is_empty());
}

#[tokio::test]
async fn what_a_mail_server_says_no_to_is_told_from_a_server_that_is_away_or_silent() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let smtp = SmtpServer::start();
    let mailer: Arc<dyn Mailer> = smtp.mailer();
    assert!(matches!(mailer.send(&mail("refused@example.org")).await, Err(MailError::Refused(_))));
    assert!(matches!(mailer.send(&mail("no address")).await, Err(MailError::Address(_))));
    let mut away = smtp.config();
    away.port = 1;
    assert!(matches!(SmtpMailer::new(&away).unwrap().send(&mail("a@b.dk")).await, Err(MailError::Unavailable(_))));
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = smtp.config();
    config.port = silent.local_addr().unwrap().port();
    assert!(matches!(SmtpMailer::new(&config).unwrap().send(&mail("a@b.dk")).await, Err(MailError::Unavailable(_))));
}
