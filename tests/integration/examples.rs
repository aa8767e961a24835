//! The examples do what their guides say, also when something dies on the way.

mod lead_intake;
mod pr_review;

use suite::binary;
use suite::fixtures::example::folder;

#[test]
fn the_examples_are_without_errors_and_warnings() {
    for (name, pipelines) in [("lead-intake", "lead-intake"), ("pr-review", "post-review, pr-review")] {
        let folder = folder(name);
        let output = binary::run(&["check", &folder.display().to_string()]).unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        assert!(said.trim_end().ends_with(&format!("{pipelines} (0 errors, 0 warnings)")), "{said}");
    }
}
