//! What ships for watching a fleet: rules that hold what they promise, about metrics that there are.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use common::metrics::Metrics;
use regex::Regex;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(folder()).output();
    let output = output.expect("promtool is installed by tests/install-servers");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

fn alerts() -> BTreeSet<String> {
    let alert = Regex::new(r"- alert: (\w+)").unwrap();
    alert.captures_iter(&read("rules.yml")).map(|found| found[1].to_owned()).collect()
}

#[test]
fn prometheus_takes_the_configuration_and_the_rules() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "--lint-fatal", "rules.yml"]);
}

#[test]
fn every_alert_rings_when_it_should_and_not_before() {
    promtool(&["test", "rules", "rules.test.yml"]);
    let tests = read("rules.test.yml");
    for alert in alerts() {
        let of_alert = tests.split("alertname: ").skip(1).filter(|test| test.starts_with(&alert));
        let rings = of_alert.filter(|test| test.split("eval_time").next().unwrap().contains("exp_labels")).count();
        assert!(rings > 0, "no test says when {alert} rings");
        assert!(tests.contains(&format!("alertname: {alert} }}")), "no test says when {alert} is silent");
    }
}

#[test]
fn every_alert_has_a_paragraph_that_says_what_to_do() {
    let runbook = read("README.md");
    let headings: BTreeSet<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(headings, alerts());
}

#[test]
fn rules_are_about_metrics_that_there_are() {
    let known = Metrics::new("test").unwrap().names();
    let rules = read("rules.yml");
    let named = Regex::new(r"\bteamster_[a-z_]+").unwrap();
    let named: BTreeSet<String> = named.find_iter(&rules).map(|name| name.as_str().to_owned()).collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        assert!(known.contains(&name), "{name} is no metric");
    }
}
