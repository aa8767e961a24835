//! Which pipelines want an event, and the tasks that they make of it.

use common::failure::Failure;
use common::id::{GroupKey, IdempotencyKey};
use common::pipeline::model::{Pipeline, Trigger, WebhookTrigger};
use common::pipeline::template::Scope;

use super::sender::Delivery;
use common::submission::NewTask;

/// The task that a pipeline makes of a delivery of this webhook; none if it
/// does not want it. The first trigger that fits decides. An error names the
/// part of the trigger that cannot be evaluated for this event.
pub fn task(
    pipeline: &Pipeline,
    webhook: &str,
    delivery: &Delivery,
    scope: &Scope<'_>,
) -> Result<Option<NewTask>, String> {
    for trigger in &pipeline.triggers {
        let Trigger::Webhook(trigger) = trigger else { continue };
        if trigger.webhook == webhook
            && wants(&trigger.events, delivery.event.as_deref())
            && trigger.condition.as_ref().map_or(Ok(true), |condition| condition.holds(scope)).map_err(message)?
        {
            return make(trigger, webhook, delivery, scope).map(Some);
        }
    }
    Ok(None)
}

/// Whether a list of events names this one: `pull_request.opened`, or `pull_request` for all of its actions.
fn wants(events: &[String], event: Option<&str>) -> bool {
    let named = |wanted: &String| {
        event
            .and_then(|event| event.strip_prefix(wanted.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    events.is_empty() || events.iter().any(named)
}

fn make(trigger: &WebhookTrigger, webhook: &str, delivery: &Delivery, scope: &Scope<'_>) -> Result<NewTask, String> {
    let input = match &trigger.input {
        Some(template) => template.render(scope).map_err(message)?,
        None => delivery.payload.clone(),
    };
    let key = match &trigger.key {
        Some(template) => template.render_text(scope).map_err(message)?,
        None => format!("hook:{webhook}:{}", delivery.id),
    };
    let key = IdempotencyKey::new(key).map_err(|error| error.to_string())?;
    let supersede = match &trigger.supersede {
        Some(template) => {
            let group = template.render_text(scope).map_err(message)?;
            Some(GroupKey::new(group).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    Ok(NewTask { input, key: Some(key), supersede, ..NewTask::default() })
}

fn message(failure: Failure) -> String {
    failure.message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_wanted_by_its_name_or_by_that_of_its_kind() {
        let list = |events: &[&str]| events.iter().map(|event| (*event).to_owned()).collect::<Vec<_>>();
        assert!(wants(&list(&["pull_request.opened"]), Some("pull_request.opened")));
        assert!(wants(&list(&["issues", "pull_request"]), Some("pull_request.opened")));
        assert!(wants(&[], Some("pull_request.opened")));
        assert!(wants(&[], None));
        assert!(!wants(&list(&["pull_request.closed"]), Some("pull_request.opened")));
        assert!(!wants(&list(&["pull"]), Some("pull_request.opened")));
        assert!(!wants(&list(&["pull_request"]), None));
    }
}
