//! `on:`: what submits tasks by itself.

use croner::parser::{CronParser, Seconds};
use serde_json::Value;

use super::text::Context;
use super::{LinkTo, Reader};
use crate::document::{Kind, Node, Table};
use crate::pipeline::model::{ScheduleTrigger, Trigger, WebhookTrigger};

const ONE_OF: &str = "a trigger has one of the keys `webhook` and `schedule`";

impl<'a> Reader<'a> {
    pub(super) fn triggers(&mut self, node: &'a Node) -> Vec<Trigger> {
        let Kind::List(items) = &node.kind else {
            self.error(node.at, format!("`on` must be a list of triggers, not {}", node.what()));
            return Vec::new();
        };
        items.iter().filter_map(|item| self.trigger(item)).collect()
    }

    fn trigger(&mut self, node: &'a Node) -> Option<Trigger> {
        let mut table = Table::of(node, self.file, "a trigger", self.out)?;
        match (table.get("webhook"), table.get("schedule")) {
            (Some(webhook), None) => self.webhook(webhook, table).map(Trigger::Webhook),
            (None, Some(schedule)) => {
                table.finish("a trigger", self.out);
                self.schedule(schedule).map(Trigger::Schedule)
            }
            _ => {
                self.error(node.at, ONE_OF);
                None
            }
        }
    }

    fn webhook(&mut self, name: &Node, mut table: Table<'a>) -> Option<WebhookTrigger> {
        let webhook: Option<String> = name.read(self.file, self.out);
        if let Some(webhook) = &webhook {
            self.link(LinkTo::Webhook, webhook, name.at);
        }
        let trigger = WebhookTrigger {
            webhook: webhook.unwrap_or_default(),
            events: table.read_or("events", Vec::new(), self.out),
            condition: table.get("if").and_then(|node| self.expression(node, "on.if", Context::Event)),
            input: table.get("input").and_then(|node| self.template(node, "on.input", Context::Event)),
            key: table.get("key").and_then(|node| self.template(node, "on.key", Context::Event)),
            supersede: table.get("supersede").and_then(|node| self.template(node, "on.supersede", Context::Event)),
        };
        table.finish("a webhook trigger", self.out);
        (!trigger.webhook.is_empty()).then_some(trigger)
    }

    fn schedule(&mut self, node: &'a Node) -> Option<ScheduleTrigger> {
        let mut table = Table::of(node, self.file, "`schedule`", self.out)?;
        let cron_node = table.need("cron", "a schedule", self.out);
        let cron: Option<String> = cron_node.and_then(|node| node.read(self.file, self.out));
        if let (Some(node), Some(cron)) = (cron_node, &cron) {
            let parser = CronParser::builder().seconds(Seconds::Optional).build();
            if let Err(error) = parser.parse(cron) {
                let error = self.file.error(node.at, format!("{cron:?} is no cron expression: {error}"));
                self.out.push(error.with_help(
                    "five fields: minute, hour, day of month, month, day of week; with six, seconds come first",
                ));
            }
        }
        let zone_node = table.get("timezone");
        let timezone: String =
            zone_node.and_then(|node| node.read(self.file, self.out)).unwrap_or_else(|| "UTC".to_owned());
        if let Some(node) = zone_node
            && jiff::tz::TimeZone::get(&timezone).is_err()
        {
            let error = self.file.error(node.at, format!("{timezone:?} is no time zone"));
            self.out.push(error.with_help("use an IANA name such as Europe/Berlin"));
        }
        let missed = table.read("missed", self.out).unwrap_or_default();
        let input = table.get("input").map_or_else(|| Value::Object(serde_json::Map::new()), Node::to_json);
        table.finish("a schedule", self.out);
        Some(ScheduleTrigger { cron: cron?, timezone, missed, input })
    }
}
