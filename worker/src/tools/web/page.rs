//! A web page as Markdown.
//!
//! The parser takes time that grows with the square of the nesting and of the
//! attributes of one element, and the converter recurses. A page that asks for
//! too much of either is given as its bare text.

use std::rc::Rc;

use htmd::{HtmlToMarkdown, Node};

/// How deep elements may nest.
const DEPTH: usize = 300;
/// How many words and slashes one tag may have, an upper bound of its attributes.
const WORDS_IN_TAG: usize = 5000;
/// How many of the open elements an end tag is looked for in.
const NEAR: usize = 16;
/// Elements without an end tag.
const VOID: [&str; 14] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr", "!doctype"];
/// Elements that the next of their kind ends, so that they do not nest by themselves.
const IMPLIED: [&str; 12] = ["p", "li", "td", "th", "tr", "dt", "dd", "option", "optgroup", "tbody", "html", "body"];

/// The page as Markdown.
pub(super) fn markdown(html: &str) -> String {
    if !is_tame(html) {
        return bare_text(html);
    }
    let converter =
        HtmlToMarkdown::builder().skip_tags(vec!["script", "style", "noscript", "template", "svg", "iframe"]).build();
    match converter.html_to_tree(html) {
        Ok(tree) if depth_is_within(&tree, 2 * DEPTH) => converter.tree_to_markdown(&tree),
        _ => bare_text(html),
    }
}

/// Whether the page can be parsed in reasonable time. Rather says no: an end
/// tag closes one element that is open nearby and none of those within it.
fn is_tame(html: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    for piece in html.split('<').skip(1) {
        let tag = piece.split('>').next().unwrap_or_default();
        if tag.bytes().filter(|byte| byte.is_ascii_whitespace() || *byte == b'/').nth(WORDS_IN_TAG).is_some() {
            return false;
        }
        let name_of = |text: &'_ str| text.find(|c: char| c.is_ascii_whitespace() || c == '/').unwrap_or(text.len());
        if let Some(end) = tag.strip_prefix('/') {
            let name = &end[..name_of(end)];
            if let Some(near) = open.iter().rev().take(NEAR).position(|other| other.eq_ignore_ascii_case(name)) {
                open.remove(open.len() - 1 - near);
            }
        } else if tag.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let name = &tag[..name_of(tag)];
            if !VOID.iter().chain(&IMPLIED).any(|other| other.eq_ignore_ascii_case(name)) {
                open.push(name);
            }
        }
        if open.len() > DEPTH {
            return false;
        }
    }
    true
}

fn depth_is_within(tree: &Rc<Node>, limit: usize) -> bool {
    let mut level = vec![Rc::clone(tree)];
    for _ in 0..limit {
        level = level.iter().flat_map(|node| node.children.borrow().clone()).collect();
        if level.is_empty() {
            return true;
        }
    }
    false
}

fn bare_text(html: &str) -> String {
    let mut text = String::new();
    for (index, piece) in html.split('<').enumerate() {
        let visible = if index == 0 { piece } else { piece.split_once('>').map_or("", |(_, after)| after) };
        for word in visible.split_whitespace() {
            text.push_str(word);
            text.push(' ');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_links_and_lists_become_markdown_and_scripts_vanish() {
        let page = "<html><head><style>x{}</style></head><body><h1>Title</h1><p>A <a href=\"/b\">link</a>.</p>\
                    <script>alert(1)</script><ul><li>one</li></ul></body></html>";
        let markdown = markdown(page);
        assert!(markdown.starts_with("# Title\n\nA [link](/b)."), "{markdown}");
        assert!(markdown.contains("one") && !markdown.contains("alert") && !markdown.contains("x{}"), "{markdown}");
    }

    #[test]
    fn a_page_that_nests_without_end_is_given_as_text() {
        for (open, close) in [
            ("<div>", "</div>"),
            // End tags that end nothing do not hide the depth,
            ("<b></x>", ""),
            // nor do those of elements that are put together again.
            ("<b><div></b>", ""),
            ("<div><table><tr><td></div>", ""),
        ] {
            let page = format!("{}deep{}", open.repeat(100_000), close.repeat(100_000));
            assert_eq!(markdown(&page).trim(), "deep", "{open}");
        }
    }

    #[test]
    fn a_long_page_that_does_not_nest_is_markdown() {
        let rows = "<tr><td>a<td>b".repeat(2000) + &"<p>paragraph<br><img src=x>".repeat(2000);
        assert!(markdown(&format!("<table>{rows}</table><h1>End</h1>")).ends_with("# End"));
    }

    #[test]
    fn an_element_with_attributes_without_end_is_given_as_text() {
        let attributes: Vec<String> = (0..400_000).map(|n| format!("a{n}")).collect();
        assert_eq!(markdown(&format!("<p {}>text", attributes.join(" "))).trim(), "text");
    }
}
