//! XML as SAML needs it: read without DTDs (so no entities, nothing external) and within a bound; written with everything escaped.

use std::borrow::Cow;

use roxmltree::{Document, Node, ParsingOptions};
use sluse_schema::port::LogInError;

pub(super) const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
pub(super) const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
pub(super) const SIGNATURE: &str = "http://www.w3.org/2000/09/xmldsig#";
pub(super) const ENCRYPTION: &str = "http://www.w3.org/2001/04/xmlenc#";

/// Elements, attributes and texts in one document.
const NUM_NODES_MAX: u32 = 10_000;
/// Elements within elements: whoever walks the document by recursion (libxml2, xmlsec) has stack for this.
const DEPTH_MAX: usize = 100;

pub(super) fn refused(reason: impl Into<String>) -> LogInError {
    LogInError::Refused(reason.into())
}

/// Reads a document that is well-formed to the letter; libxml2 would mend what is not.
pub(super) fn parse(text: &str) -> Result<Document<'_>, LogInError> {
    // The reader below bears an empty DTD; libxml2 would fetch what it names.
    if text.contains("<!DOCTYPE") {
        return Err(refused("XML: there is a document type declaration"));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NUM_NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| refused(format!("XML: {error}")))?;
    let mut depth = 1_usize;
    let mut node = document.root_element();
    // Walks by hand: depth is what must not be trusted yet.
    loop {
        if let Some(child) = node.first_element_child() {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(refused("XML: elements are nested too deeply"));
            }
            node = child;
            continue;
        }
        loop {
            if let Some(next) = node.next_sibling_element() {
                node = next;
                break;
            }
            match node.parent_element() {
                Some(parent) => {
                    depth -= 1;
                    node = parent;
                }
                None => return Ok(document),
            }
        }
    }
}

/// Child elements of this name.
pub(super) fn children<'a, 'i: 'a>(
    parent: Node<'a, 'i>,
    namespace: &'static str,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    parent.children().filter(move |node| node.has_tag_name((namespace, name)))
}

/// The one child element of this name.
pub(super) fn only_child<'a, 'i: 'a>(
    parent: Node<'a, 'i>,
    namespace: &'static str,
    name: &'static str,
) -> Result<Node<'a, 'i>, LogInError> {
    optional_child(parent, namespace, name)?.ok_or_else(|| refused(format!("there is no {name}")))
}

/// The child element of this name, if there is one; two are refused.
pub(super) fn optional_child<'a, 'i: 'a>(
    parent: Node<'a, 'i>,
    namespace: &'static str,
    name: &'static str,
) -> Result<Option<Node<'a, 'i>>, LogInError> {
    let mut found = children(parent, namespace, name);
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        _ => Err(refused(format!("there is more than one {name}"))),
    }
}

/// An element's text, whole: comments do not split it, other elements do not belong in it.
pub(super) fn text<'a>(node: Node<'a, '_>) -> Result<Cow<'a, str>, LogInError> {
    if node.children().any(|child| child.is_element()) {
        return Err(refused(format!("{} holds more than text", node.tag_name().name())));
    }
    let mut parts = node.children().filter(|child| child.is_text()).filter_map(|child| child.text());
    let first = parts.next().unwrap_or("");
    let mut whole = Cow::Borrowed(first);
    for part in parts {
        whole.to_mut().push_str(part);
    }
    Ok(whole)
}

/// Text for an element or an attribute in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML 1.0 at all.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_with_a_dtd_too_deep_or_too_large_are_refused() {
        let entity = "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>";
        let deep = format!("{}{}", "<a>".repeat(101), "</a>".repeat(101));
        let very_deep = "<a>".repeat(9_000);
        let large = format!("<a>{}</a>", "<b/>".repeat(10_001));
        for bad in [entity, "<!DOCTYPE a><a/>", "<a>", "<a/><b/>", "<a b='1' b='2'/>", &deep, &very_deep, &large, ""] {
            assert!(parse(bad).is_err(), "{}", sluse_schema::text::cut(bad, 40));
        }
        assert!(parse(&format!("{}<b/><c/>{}", "<a>".repeat(50), "</a>".repeat(50))).is_ok());
    }

    #[test]
    fn a_comment_does_not_shorten_a_text() {
        let document = parse("<n>admin@example.org<!-- x -->.evil.example</n>").unwrap();
        assert_eq!(text(document.root_element()).unwrap(), "admin@example.org.evil.example");
        assert!(text(parse("<n>a<b/>c</n>").unwrap().root_element()).is_err());
    }

    #[test]
    fn what_is_escaped_reads_back() {
        let odd = "CN=A & B <\"x\"> 'y'";
        let xml = format!("<n a=\"{0}\">{0}</n>", escape(odd));
        let document = parse(&xml).unwrap();
        assert_eq!(document.root_element().attribute("a"), Some(odd));
        assert_eq!(text(document.root_element()).unwrap(), odd);
    }
}
