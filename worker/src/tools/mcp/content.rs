//! What an MCP tool answers, in the form of the Messages API.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};

use crate::tools::{ToolAnswer, cut};

/// Images that the Messages API takes.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// A text if there is only text, else content blocks; at most about `limit` bytes.
/// Structured content is shown if there is nothing else.
pub(super) fn answer(result: CallToolResult, limit: usize) -> ToolAnswer {
    let is_error = result.is_error.unwrap_or(false);
    let mut left = limit;
    let mut blocks: Vec<Value> = Vec::new();
    for block in result.content {
        let block = match block {
            ContentBlock::Image(image) if IMAGES.contains(&image.mime_type.as_str()) && image.data.len() <= left => {
                left -= image.data.len();
                json!({
                    "type": "image",
                    "source": {"type": "base64", "media_type": image.mime_type, "data": image.data}
                })
            }
            other => {
                let text = cut(text(other), left);
                left = left.saturating_sub(text.len());
                json!({"type": "text", "text": text})
            }
        };
        blocks.push(block);
    }
    if blocks.is_empty()
        && let Some(structured) = result.structured_content
    {
        blocks.push(json!({"type": "text", "text": cut(structured.to_string(), limit)}));
    }
    let texts: Option<Vec<&str>> = blocks.iter().map(|block| block.get("text")?.as_str()).collect();
    let content = match texts {
        Some(texts) => Value::String(texts.join("\n")),
        None => Value::Array(blocks),
    };
    ToolAnswer { content, is_error }
}

fn text(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => {
            format!("[an image of type {}, {} bytes in base64]", image.mime_type, image.data.len())
        }
        ContentBlock::Audio(audio) => {
            format!("[audio of type {}, {} bytes in base64]", audio.mime_type, audio.data.len())
        }
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[resource {uri}]\n{text}"),
            ResourceContents::BlobResourceContents { uri, blob, .. } => {
                format!("[resource {uri}, {} bytes in base64]", blob.len())
            }
            _ => "[a resource of an unknown kind]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[link to the resource {} ({})]", link.uri, link.name),
        _ => "[content of an unknown kind]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answered(result: Value) -> ToolAnswer {
        answer(serde_json::from_value(result).unwrap(), 1000)
    }

    #[test]
    fn texts_and_resources_become_one_text() {
        let result = answered(json!({"content": [
            {"type": "text", "text": "one"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "two"}},
            {"type": "resource_link", "uri": "file:///b", "name": "b"}
        ], "isError": true}));
        assert_eq!(result.content, "one\n[resource file:///a]\ntwo\n[link to the resource file:///b (b)]");
        assert!(result.is_error);
    }

    #[test]
    fn an_image_that_models_take_is_a_block_and_others_are_named() {
        let result = answered(json!({"content": [
            {"type": "text", "text": "look"},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            {"type": "image", "data": "AAAA", "mimeType": "image/tiff"}
        ]}));
        assert_eq!(result.content[1]["source"], json!({"type": "base64", "media_type": "image/png", "data": "AAAA"}));
        assert_eq!(
            result.content[2],
            json!({"type": "text", "text": "[an image of type image/tiff, 4 bytes in base64]"})
        );
    }

    #[test]
    fn structured_content_is_shown_if_there_is_nothing_else() {
        assert_eq!(answered(json!({"content": [], "structuredContent": {"a": 1}})).content, r#"{"a":1}"#);
    }

    #[test]
    fn an_answer_keeps_to_its_limit() {
        let texts: Vec<Value> = (0..10).map(|_| json!({"type": "text", "text": "x".repeat(400)})).collect();
        let result = answered(json!({"content": texts}));
        assert!(result.content.as_str().unwrap().len() < 1000 + 10 * 40, "{}", result.content);
    }
}
