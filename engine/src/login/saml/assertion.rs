//! What a signed assertion says, and whether it is said to us, now, about this attempt. Reads only the bytes that the signature
//! covers.
//!
//! samael checks conditions only where there are some; here they have to be there: issuer, audience, both time limits, and a bearer
//! confirmation with recipient, time limit and `InResponseTo`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use roxmltree::Node;
use sluse_schema::port::LogInError;
use sluse_schema::port::login::OIDC_NAME_ID_PREFIX;

use super::xml::{ASSERTION, children, only_child, parse, refused, text};

/// How far the provider's clock and ours may be apart.
pub(super) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
/// OIOSAML's list of privileges: base64 of an XML document.
const PRIVILEGES: &str = "dk:gov:saml:attribute:Privileges_intermediate";
const NUM_CHARS_MAX: usize = 1024;

/// What an assertion has to say.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// The provider's entity id; `None`: whoever has the provider's key.
    pub(super) issuer: Option<&'a str>,
    /// Our entity id.
    pub(super) audience: &'a str,
    /// Our assertion consumer service.
    pub(super) recipient: &'a str,
    /// The request that it answers.
    pub(super) in_response_to: &'a str,
    pub(super) now: DateTime<Utc>,
}

/// Who the assertion is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) name_id: String,
    /// Texts of the privileges, from every organisation they are given in.
    pub(super) privileges: Vec<String>,
}

/// Checks an assertion whose signature was verified.
pub(super) fn check(assertion: Node<'_, '_>, expected: &Expected<'_>) -> Result<Subject, LogInError> {
    if assertion.attribute("Version") != Some("2.0") {
        return Err(refused("the assertion is not of SAML 2.0"));
    }
    let issuer = text(only_child(assertion, ASSERTION, "Issuer")?)?;
    if expected.issuer.is_some_and(|wanted| wanted != issuer.trim()) {
        return Err(refused("the assertion is another issuer's"));
    }
    conditions(only_child(assertion, ASSERTION, "Conditions")?, expected)?;
    let subject = only_child(assertion, ASSERTION, "Subject")?;
    let name_id = name_id(subject)?;
    confirmation(subject, expected)?;
    for statement in children(assertion, ASSERTION, "AuthnStatement") {
        if instant(statement, "SessionNotOnOrAfter")?.is_some_and(|end| end + CLOCK_SKEW <= expected.now) {
            return Err(refused("the session at the provider is over"));
        }
    }
    Ok(Subject { name_id, privileges: privileges(assertion)? })
}

fn instant(node: Node<'_, '_>, attribute: &'static str) -> Result<Option<DateTime<Utc>>, LogInError> {
    let Some(value) = node.attribute(attribute) else { return Ok(None) };
    let parsed = DateTime::parse_from_rfc3339(value).map_err(|_| refused(format!("{attribute} is not a time")))?;
    Ok(Some(parsed.to_utc()))
}

/// `NotBefore` may be missing, the end may not.
fn within(node: Node<'_, '_>, now: DateTime<Utc>) -> Result<(), LogInError> {
    let what = node.tag_name().name();
    if instant(node, "NotBefore")?.is_some_and(|start| now + CLOCK_SKEW < start) {
        return Err(refused(format!("{what}: not valid yet; are the clocks right?")));
    }
    match instant(node, "NotOnOrAfter")? {
        None => Err(refused(format!("{what}: no end of validity"))),
        Some(end) if end + CLOCK_SKEW <= now => Err(refused(format!("{what}: expired"))),
        Some(_) => Ok(()),
    }
}

fn conditions(conditions: Node<'_, '_>, expected: &Expected<'_>) -> Result<(), LogInError> {
    within(conditions, expected.now)?;
    let mut num_restrictions = 0;
    // Every restriction holds; within one, any audience will do.
    for restriction in children(conditions, ASSERTION, "AudienceRestriction") {
        num_restrictions += 1;
        let mut is_ours = false;
        for audience in children(restriction, ASSERTION, "Audience") {
            is_ours |= text(audience)?.trim() == expected.audience;
        }
        if !is_ours {
            return Err(refused(format!("it is for another audience than {}", expected.audience)));
        }
    }
    if num_restrictions == 0 {
        return Err(refused("it is for no audience in particular"));
    }
    // A condition that is not understood makes an assertion invalid (core, 2.5.1); these two ask nothing that is not done.
    let is_known = |name: &str| matches!(name, "AudienceRestriction" | "OneTimeUse" | "ProxyRestriction");
    match conditions.children().find(|c| c.is_element() && !is_known(c.tag_name().name())) {
        Some(_) => Err(refused("there is a condition that is not understood")),
        None => Ok(()),
    }
}

fn name_id(subject: Node<'_, '_>) -> Result<String, LogInError> {
    let text = text(only_child(subject, ASSERTION, "NameID")?)?;
    let name_id = text.trim();
    let is_name = !name_id.is_empty()
        && name_id.chars().count() <= NUM_CHARS_MAX
        && !name_id.chars().any(char::is_control)
        && !name_id.starts_with(OIDC_NAME_ID_PREFIX);
    if is_name { Ok(name_id.to_owned()) } else { Err(refused("the name id cannot be used")) }
}

fn confirmation(subject: Node<'_, '_>, expected: &Expected<'_>) -> Result<(), LogInError> {
    let mut why_not = refused("there is no bearer confirmation");
    for confirmation in children(subject, ASSERTION, "SubjectConfirmation") {
        if confirmation.attribute("Method") != Some(BEARER) {
            continue;
        }
        match confirmed(confirmation, expected) {
            Ok(()) => return Ok(()),
            Err(error) => why_not = error,
        }
    }
    Err(why_not)
}

fn confirmed(confirmation: Node<'_, '_>, expected: &Expected<'_>) -> Result<(), LogInError> {
    let data = only_child(confirmation, ASSERTION, "SubjectConfirmationData")?;
    if data.attribute("Recipient") != Some(expected.recipient) {
        return Err(refused(format!("it is for another recipient than {}", expected.recipient)));
    }
    if data.attribute("InResponseTo") != Some(expected.in_response_to) {
        return Err(refused("the assertion answers another request"));
    }
    within(data, expected.now)
}

/// Every privilege in the attribute, if it is there.
fn privileges(assertion: Node<'_, '_>) -> Result<Vec<String>, LogInError> {
    let mut found = Vec::new();
    for statement in children(assertion, ASSERTION, "AttributeStatement") {
        for attribute in children(statement, ASSERTION, "Attribute") {
            if attribute.attribute("Name") != Some(PRIVILEGES) {
                continue;
            }
            for value in children(attribute, ASSERTION, "AttributeValue") {
                privileges_in(&text(value)?, &mut found)?;
            }
        }
    }
    Ok(found)
}

fn privileges_in(packed: &str, found: &mut Vec<String>) -> Result<(), LogInError> {
    let packed: String = packed.split_whitespace().collect();
    let unreadable = |_| refused("the privileges cannot be read");
    let bytes = STANDARD.decode(packed).map_err(unreadable)?;
    let list = String::from_utf8(bytes).map_err(|_| refused("the privileges cannot be read"))?;
    let document = parse(list.trim_start_matches('\u{feff}'))?;
    for privilege in document.descendants().filter(|node| node.is_element() && node.tag_name().name() == "Privilege") {
        found.push(text(privilege)?.trim().to_owned());
    }
    Ok(())
}

/// `CN` of a distinguished name, or the whole text when it has none.
pub(super) fn common_name(name_id: &str) -> String {
    let mut part = String::new();
    let mut parts = Vec::new();
    let mut chars = name_id.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => part.extend(chars.next()),
            ',' | '+' => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    let value = |part: &String| {
        let (key, value) = part.split_once('=')?;
        (key.trim().eq_ignore_ascii_case("CN") && !value.trim().is_empty()).then(|| value.trim().to_owned())
    };
    let name = parts.iter().find_map(value).unwrap_or_else(|| name_id.to_owned());
    sluse_schema::text::cut(&name, 128).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn good() -> String {
        let list = "<bpp:PrivilegeList xmlns:bpp='http://itst.dk/oiosaml/basic_privilege_profile'><PrivilegeGroup \
                    Scope='urn:dk:gov:saml:cvrNumberIdentifier:12345678'><Privilege>http://os2iot.dk/roles/usersystemrole/adgang/1\
                    </Privilege></PrivilegeGroup></bpp:PrivilegeList>";
        format!(
            "<a:Assertion xmlns:a='{ASSERTION}' ID='x' Version='2.0'><a:Issuer>idp</a:Issuer><a:Subject>\
             <a:NameID>C=DK,O=12345678 // By,CN=Åse Ek,Serial=1</a:NameID><a:SubjectConfirmation Method='{BEARER}'>\
             <a:SubjectConfirmationData Recipient='acs' InResponseTo='q' NotOnOrAfter='2026-01-01T12:05:00Z'/>\
             </a:SubjectConfirmation></a:Subject><a:Conditions NotBefore='2026-01-01T12:00:00Z' \
             NotOnOrAfter='2026-01-01T12:05:00.000Z'><a:AudienceRestriction><a:Audience>us</a:Audience>\
             </a:AudienceRestriction></a:Conditions><a:AttributeStatement><a:Attribute Name='{PRIVILEGES}'>\
             <a:AttributeValue>{}</a:AttributeValue></a:Attribute></a:AttributeStatement></a:Assertion>",
            STANDARD.encode(list)
        )
    }

    fn checked_at(xml: &str, now: &str) -> Result<Subject, LogInError> {
        let expected =
            Expected { issuer: Some("idp"), audience: "us", recipient: "acs", in_response_to: "q", now: at(now) };
        check(parse(xml).unwrap().root_element(), &expected)
    }

    #[test]
    fn a_good_assertion_names_its_subject_and_his_privileges() {
        let subject = checked_at(&good(), "2026-01-01T12:01:00Z").unwrap();
        assert_eq!(subject.name_id, "C=DK,O=12345678 // By,CN=Åse Ek,Serial=1");
        assert_eq!(subject.privileges, ["http://os2iot.dk/roles/usersystemrole/adgang/1"]);
    }

    #[test]
    fn whatever_is_not_said_to_us_now_about_this_request_is_refused() {
        let now = "2026-01-01T12:01:00Z";
        for (from, to) in [
            ("<a:Audience>us<", "<a:Audience>them<"),
            ("<a:AudienceRestriction><a:Audience>us</a:Audience></a:AudienceRestriction>", ""),
            (
                "</a:AudienceRestriction>",
                "</a:AudienceRestriction><a:AudienceRestriction><a:Audience>them</a:Audience></a:AudienceRestriction>",
            ),
            ("</a:AudienceRestriction>", "</a:AudienceRestriction><a:Condition/>"),
            ("Recipient='acs'", "Recipient='elsewhere'"),
            ("Recipient='acs'", ""),
            ("InResponseTo='q'", "InResponseTo='p'"),
            ("InResponseTo='q'", ""),
            ("cm:bearer", "cm:sender-vouches"),
            ("<a:Issuer>idp<", "<a:Issuer>other<"),
            ("NotOnOrAfter='2026-01-01T12:05:00Z'", ""),
            ("NotOnOrAfter='2026-01-01T12:05:00.000Z'", ""),
            ("Version='2.0'", "Version='1.1'"),
            ("C=DK,", "oidc:https://idp#"),
            ("<a:NameID>", "<a:NameID>x</a:NameID><a:NameID>"),
        ] {
            let bad = good().replace(from, to);
            assert_ne!(bad, good(), "{from}");
            assert!(checked_at(&bad, now).is_err(), "{from} as {to}");
        }
    }

    #[test]
    fn validity_has_a_beginning_and_an_end_with_a_minute_for_clocks() {
        for (now, is_good) in [
            ("2026-01-01T11:58:59Z", false),
            ("2026-01-01T11:59:30Z", true),
            ("2026-01-01T12:05:59Z", true),
            ("2026-01-01T12:06:00Z", false),
        ] {
            assert_eq!(checked_at(&good(), now).is_ok(), is_good, "{now}");
        }
    }

    #[test]
    fn a_name_is_the_common_name_if_there_is_one() {
        for (name_id, name) in [
            ("C=DK,O=By,CN=Åse Ek,Serial=1", "Åse Ek"),
            ("cn=Ek\\, Åse + serialNumber=1", "Ek, Åse"),
            ("ase@example.org", "ase@example.org"),
            ("CN=", "CN="),
        ] {
            assert_eq!(common_name(name_id), name);
        }
    }
}
