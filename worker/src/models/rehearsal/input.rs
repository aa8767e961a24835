//! What the rehearsal reads in a conversation: words, paths, what was called and
//! what came of it. Plain looking, no understanding.

use serde_json::Value;

/// The most results and paths that are looked at.
const LOOK: usize = 200;
/// The longest text that is looked at, in bytes.
const GLANCE: usize = 64 << 10;

/// A conversation, as far as it is looked at.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The first user message.
    pub prompt: String,
    /// The names of the tools that were called, in order.
    pub called: Vec<String>,
    /// How many replies called tools.
    pub turns: usize,
    /// Paths in the prompt.
    pub prompt_paths: Vec<String>,
    /// Paths in the results of tools.
    pub found_paths: Vec<String>,
}

impl Input {
    /// Looks through the messages.
    pub(super) fn read(messages: &[Value]) -> Self {
        let prompt = messages.first().map(|message| text_of(&message["content"])).unwrap_or_default();
        let mut input = Self { prompt_paths: paths(&prompt), prompt, ..Self::default() };
        for message in messages.iter().skip(1) {
            let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
            let calls_before = input.called.len();
            for block in blocks {
                match block["type"].as_str() {
                    Some("tool_use") => input.called.push(block["name"].as_str().unwrap_or_default().to_owned()),
                    Some("tool_result") if block["is_error"] != true && input.found_paths.len() < LOOK => {
                        input.found_paths.extend(paths(&text_of(&block["content"])));
                    }
                    _ => {}
                }
            }
            input.turns += usize::from(input.called.len() > calls_before);
        }
        input.found_paths.truncate(LOOK);
        input
    }

    /// Whether a tool was called.
    pub(super) fn has_called(&self, tool: &str) -> bool {
        self.called.iter().any(|name| name == tool)
    }

    /// The first words of the prompt, for texts.
    pub(super) fn gist(&self) -> String {
        let words: Vec<&str> = self.prompt.split_whitespace().take(12).collect();
        let gist: String = words.join(" ").chars().take(100).collect();
        if gist.is_empty() { "nothing".to_owned() } else { gist }
    }

    /// A word worth searching for: the first of six letters or more.
    pub(super) fn keyword(&self) -> &str {
        let plain = |word: &&str| (1..=32).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphabetic());
        let words = || glance(&self.prompt).split(|c: char| !c.is_alphanumeric()).filter(plain);
        words().find(|word| word.len() >= 6).or_else(|| words().max_by_key(|word| word.len())).unwrap_or("the")
    }

    /// What the prompt says of a name: `company: Acme`, `"company": "Acme"`.
    pub(super) fn said_of(&self, name: &str) -> Option<&str> {
        let spoken = name.replace('_', " ");
        glance(&self.prompt).lines().flat_map(|line| line.split([',', ';', '{', '}'])).find_map(|part| {
            let (key, value) = part.split_once([':', '='])?;
            let is_it = [name, &spoken].iter().any(|name| bare(key).eq_ignore_ascii_case(name));
            Some(bare(value)).filter(|value| is_it && !value.is_empty())
        })
    }

    /// The first address of mail in the prompt.
    pub(super) fn mail(&self) -> Option<&str> {
        glance(&self.prompt)
            .split(|c: char| c.is_whitespace() || "<>()[]{}\"',;:".contains(c))
            .map(|word| word.trim_end_matches('.'))
            .find(|word| {
                word.is_ascii()
                    && word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
            })
    }
}

/// A text without the marks that lists, quotes and JSON put around it.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"'`*-.".contains(c))
}

/// The texts of a content: a text, or blocks of text.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// The beginning of a text, cut at a character.
fn glance(text: &str) -> &str {
    let mut end = text.len().min(GLANCE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Words that look like relative paths of files, each once, in order.
fn paths(text: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for word in glance(text).split(|c: char| c.is_whitespace() || "\"'`()<>,;:[]{}".contains(c)) {
        let word = word.trim_end_matches(['.', '!', '?']);
        // Headers of diffs write both sides as a/PATH and b/PATH.
        let word = word.strip_prefix("a/").or_else(|| word.strip_prefix("b/")).unwrap_or(word);
        if is_path(word) && paths.len() < LOOK && !paths.iter().any(|path| path == word) {
            paths.push(word.to_owned());
        }
    }
    paths
}

fn is_path(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or_default();
    let has_ending = name.rsplit_once('.').is_some_and(|(stem, ending)| {
        // Not an abbreviation such as e.g., nor a number.
        !stem.is_empty()
            && stem.len() + ending.len() > 2
            && (1..=6).contains(&ending.len())
            && ending.bytes().all(|b| b.is_ascii_alphanumeric())
            && ending.bytes().any(|b| b.is_ascii_alphabetic())
    });
    has_ending
        && word.len() <= 200
        && !word.starts_with('/')
        && !word.contains("..")
        && !word.contains('@')
        && !word.contains("//")
        && !word.contains('*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prompt(text: &str) -> Input {
        Input::read(&[json!({"role": "user", "content": text})])
    }

    #[test]
    fn paths_are_found_in_prose_and_in_diffs() {
        let text = "Look at `src/a.rs`, docs/b.md. Not /etc/passwd.txt, ../x.rs, 1.5, e.g. or a@b.de.\n+++ b/src/c.rs\n--- a/src/c.rs";
        assert_eq!(prompt(text).prompt_paths, ["src/a.rs", "docs/b.md", "src/c.rs"]);
    }

    #[test]
    fn what_the_prompt_says_of_a_name_is_found() {
        let input = prompt("Research this.\n- Company: Ärger & Söhne\n{\"contact_name\": \"Jo\", \"score\": 3}");
        assert_eq!(input.said_of("company"), Some("Ärger & Söhne"));
        assert_eq!(input.said_of("contact_name"), Some("Jo"));
        assert_eq!(input.said_of("summary"), None);
    }

    #[test]
    fn a_mail_address_and_a_keyword_are_found() {
        let input = prompt("Write to Jo <jo@acme.de>. Inquiry: pricing.");
        assert_eq!(input.mail(), Some("jo@acme.de"));
        assert_eq!(input.keyword(), "Inquiry");
        assert_eq!(prompt("").keyword(), "the");
    }

    #[test]
    fn results_and_calls_are_counted() {
        let input = Input::read(&[
            json!({"role": "user", "content": "Go"}),
            json!({"role": "assistant", "content": [{"type": "tool_use", "name": "Glob"}, {"type": "tool_use", "name": "Grep"}]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "content": [{"type": "text", "text": "x.rs"}]},
                {"type": "tool_result", "is_error": true, "content": "y.rs"}]}),
        ]);
        assert_eq!((input.turns, input.called.len()), (1, 2));
        assert_eq!(input.found_paths, ["x.rs"]);
    }
}
