//! The webhook of the demo: what GitHub posts when a pull request is opened,
//! signed as GitHub signs it. The payload is a shortened example of the npm
//! package `@octokit/webhooks-examples` (MIT licence).

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use scheduler::wire::Delivered;
use serde_json::{Value, json};
use sha2::Sha256;

use super::repository::Change;
use crate::client::Client;

const PAYLOAD: &str = include_str!("pull_request.opened.json");

/// A delivery that can be posted more than once.
#[derive(Debug)]
pub(super) struct Delivery {
    id: String,
    signature: String,
    body: Vec<u8>,
}

impl Delivery {
    /// The opening of a pull request with this change.
    pub(super) fn opened(change: &Change, secret: &str, id: String) -> Result<Self> {
        let mut event: Value = serde_json::from_str(PAYLOAD).context("the example payload")?;
        let pull_request = &mut event["pull_request"];
        pull_request["title"] = json!(change.title);
        pull_request["base"]["sha"] = json!(change.base);
        pull_request["head"]["sha"] = json!(change.head);
        let body = serde_json::to_vec(&event)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).context("the secret of the webhook")?;
        mac.update(&body);
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        Ok(Self { id, signature, body })
    }

    /// Posts it.
    pub(super) async fn post(&self, client: &Client) -> Result<(StatusCode, Delivered)> {
        let request = client
            .request(Method::POST, "/v1/hooks/github")
            .header("content-type", "application/json")
            .header("x-github-event", "pull_request")
            .header("x-github-delivery", &self.id)
            .header("x-hub-signature-256", &self.signature)
            .body(self.body.clone());
        let response = client.send(request).await?;
        let status = response.status();
        Ok((status, response.json().await.context("the answer to the webhook")?))
    }
}
