//! The shape of a response before its signature is believed or even looked at: one assertion, where it belongs, signed as SAML
//! wants it (5.4 of the core specification) and in no other way.
//!
//! xmlsec would follow a reference to anywhere and run whatever transform a document names, before it knows who wrote the
//! document. So what it may meet is fixed here: a signature stands directly in the element that it signs, refers to it by its ID
//! and to nothing else, by enveloped-signature and exclusive canonicalisation.

use roxmltree::{Document, Node};
use sluse_schema::port::LogInError;

use super::xml::{ASSERTION, PROTOCOL, SIGNATURE, children, only_child, optional_child, refused, text};

const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";

/// What a response says of itself. Believed only where it can do no harm: it can make a response refused, never accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) destination: Option<String>,
    pub(super) in_response_to: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) is_signed: bool,
    pub(super) is_encrypted: bool,
}

/// Checks the shape of a whole response.
pub(super) fn response(document: &Document<'_>) -> Result<Envelope, LogInError> {
    let root = document.root_element();
    if !root.has_tag_name((PROTOCOL, "Response")) {
        return Err(refused("it is not a SAML response"));
    }
    if root.attribute("Version") != Some("2.0") {
        return Err(refused("it is not of SAML 2.0"));
    }
    status(root)?;
    let plain = optional_child(root, ASSERTION, "Assertion")?;
    let encrypted = optional_child(root, ASSERTION, "EncryptedAssertion")?;
    let is_signed = optional_child(root, SIGNATURE, "Signature")?.is_some();
    let num_signed = usize::from(is_signed) + usize::from(plain.is_some());
    match (plain, encrypted) {
        (Some(assertion), None) => {
            only(document, ASSERTION, "Assertion", 1)?;
            only(document, ASSERTION, "EncryptedAssertion", 0)?;
            signature_of(assertion)?;
        }
        (None, Some(_)) => {
            only(document, ASSERTION, "Assertion", 0)?;
            only(document, ASSERTION, "EncryptedAssertion", 1)?;
        }
        (None, None) => return Err(refused("there is no assertion")),
        (Some(_), Some(_)) => return Err(refused("there is more than one assertion")),
    }
    only(document, SIGNATURE, "Signature", num_signed)?;
    if is_signed {
        signature_of(root)?;
    }
    let issuer = optional_child(root, ASSERTION, "Issuer")?.map(text).transpose()?;
    Ok(Envelope {
        destination: root.attribute("Destination").map(str::to_owned),
        in_response_to: root.attribute("InResponseTo").map(str::to_owned),
        issuer: issuer.map(|issuer| issuer.trim().to_owned()),
        is_signed,
        is_encrypted: encrypted.is_some(),
    })
}

/// Checks the shape of an assertion that stood encrypted in a response.
pub(super) fn assertion(document: &Document<'_>) -> Result<(), LogInError> {
    let root = document.root_element();
    if !root.has_tag_name((ASSERTION, "Assertion")) {
        return Err(refused("what was encrypted is not an assertion"));
    }
    only(document, ASSERTION, "Assertion", 1)?;
    only(document, SIGNATURE, "Signature", 1)?;
    signature_of(root)
}

fn only(document: &Document<'_>, namespace: &str, name: &str, num: usize) -> Result<(), LogInError> {
    let found = document.descendants().filter(|node| node.has_tag_name((namespace, name))).count();
    if found == num { Ok(()) } else { Err(refused(format!("there are {found} {name} elements where {num} belong"))) }
}

fn status(root: Node<'_, '_>) -> Result<(), LogInError> {
    let status = only_child(root, PROTOCOL, "Status")?;
    let code = only_child(status, PROTOCOL, "StatusCode")?;
    let value = code.attribute("Value").unwrap_or("");
    if value == SUCCESS {
        return Ok(());
    }
    let detail = children(code, PROTOCOL, "StatusCode").next().and_then(|code| code.attribute("Value")).unwrap_or("");
    let message = optional_child(status, PROTOCOL, "StatusMessage")?.map(text).transpose()?.unwrap_or_default();
    let cut = |text| sluse_schema::text::cut(text, 200);
    Err(refused(format!("the provider answered {} {} {:?}", cut(value), cut(detail), cut(&message))))
}

/// The signature that stands in `signed` and is over it.
fn signature_of(signed: Node<'_, '_>) -> Result<(), LogInError> {
    let name = signed.tag_name().name();
    let Some(signature) = optional_child(signed, SIGNATURE, "Signature")? else {
        return Err(refused(format!("the {name} is not signed")));
    };
    let info = only_child(signature, SIGNATURE, "SignedInfo")?;
    let method = only_child(info, SIGNATURE, "CanonicalizationMethod")?;
    if method.attribute("Algorithm") != Some(EXCLUSIVE) {
        return Err(refused("a signature is not over the exclusive canonical form"));
    }
    let reference = only_child(info, SIGNATURE, "Reference")?;
    let id = signed.attribute("ID").filter(|id| !id.is_empty());
    let target = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#'));
    if id.is_none() || target != id {
        return Err(refused(format!("a signature in the {name} is not over it")));
    }
    let transforms = only_child(reference, SIGNATURE, "Transforms")?;
    let names: Vec<_> =
        transforms.children().filter(Node::is_element).map(|node| node.attribute("Algorithm").unwrap_or("")).collect();
    if names != [ENVELOPED, EXCLUSIVE] && names != [ENVELOPED] {
        return Err(refused("a signature uses other transforms than SAML's"));
    }
    only_child(signature, SIGNATURE, "SignatureValue")?;
    if children(signature, SIGNATURE, "Object").next().is_some() {
        return Err(refused("a signature holds an object"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::xml::parse;
    use super::*;

    fn signature(id: &str) -> String {
        format!(
            "<ds:Signature xmlns:ds='{SIGNATURE}'><ds:SignedInfo><ds:CanonicalizationMethod Algorithm='{EXCLUSIVE}'/>\
             <ds:Reference URI='#{id}'><ds:Transforms><ds:Transform Algorithm='{ENVELOPED}'/>\
             <ds:Transform Algorithm='{EXCLUSIVE}'/></ds:Transforms></ds:Reference></ds:SignedInfo>\
             <ds:SignatureValue/></ds:Signature>"
        )
    }

    fn wrap(inside: &str) -> String {
        format!(
            "<p:Response xmlns:p='{PROTOCOL}' xmlns:a='{ASSERTION}' ID='r' Version='2.0' InResponseTo='q'><p:Status>\
             <p:StatusCode Value='{SUCCESS}'/></p:Status>{inside}</p:Response>"
        )
    }

    fn shape_of(xml: &str) -> Result<Envelope, LogInError> {
        response(&parse(xml).unwrap())
    }

    #[test]
    fn a_signed_assertion_in_its_place_is_let_through() {
        let good = wrap(&format!("<a:Assertion ID='x'>{}</a:Assertion>", signature("x")));
        let envelope = shape_of(&good).unwrap();
        assert_eq!((envelope.in_response_to.as_deref(), envelope.is_signed), (Some("q"), false));
        assert!(shape_of(&wrap("<a:EncryptedAssertion/>")).unwrap().is_encrypted);
    }

    #[test]
    fn nothing_else_is() {
        let signed = format!("<a:Assertion ID='x'>{}</a:Assertion>", signature("x"));
        let with = |from: &str, to: &str| wrap(&signed.replace(from, to));
        for (what, bad) in [
            ("no assertion", wrap("")),
            ("unsigned", wrap("<a:Assertion ID='x'/>")),
            ("a forged one before", wrap(&format!("<a:Assertion ID='y'/>{signed}"))),
            ("a forged one behind", wrap(&format!("{signed}<a:Assertion ID='y'/>"))),
            ("the signed one inside a forged one", wrap(&format!("<a:Assertion ID='y'>{signed}</a:Assertion>"))),
            (
                "the signed one in an extension",
                wrap(&format!("<p:Extensions>{signed}</p:Extensions><a:Assertion ID='y'/>")),
            ),
            ("signed beside encrypted", wrap(&format!("{signed}<a:EncryptedAssertion/>"))),
            ("over something else", with("URI='#x'", "URI='#r'")),
            ("over the whole document", with("URI='#x'", "URI=''")),
            ("over a file", with("URI='#x'", "URI='file:///etc/passwd'")),
            ("by XSLT", with(EXCLUSIVE, "http://www.w3.org/TR/1999/REC-xslt-19991116")),
            ("by XPath", with(ENVELOPED, "http://www.w3.org/TR/1999/REC-xpath-19991116")),
            ("with an object", with("<ds:SignatureValue/>", "<ds:SignatureValue/><ds:Object/>")),
            ("without an ID", with("ID='x'", "")),
            ("two signatures", wrap(&format!("<a:Assertion ID='x'>{0}{0}</a:Assertion>", signature("x")))),
            ("SAML 1.1", wrap(&signed).replace("Version='2.0'", "Version='1.1'")),
            ("a failure", wrap(&signed).replace(":Success", ":Responder")),
            ("another document", signed.replace("ID='x'", &format!("ID='x' xmlns:a='{ASSERTION}'"))),
        ] {
            assert!(shape_of(&bad).is_err(), "{what}");
        }
    }
}
