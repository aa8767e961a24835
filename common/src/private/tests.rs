#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::config::{OneOrMany, PrivateKind, Reveal};
use crate::id::Token;
use crate::secret::SecretRef;

fn config() -> PrivateData {
    PrivateData {
        key: OneOrMany::One(SecretRef::Env("NOT_READ".to_owned())),
        kinds: PrivateKind::ALL.to_vec(),
        fields: vec!["ssn".to_owned(), "Birth_Date".to_owned()],
        patterns: BTreeMap::from([("customer_no".to_owned(), r"KD-\d{6}".to_owned())]),
        except: vec![r"@acme\.example$".to_owned()],
        reveal: Reveal::default(),
    }
}

fn private() -> Private {
    let keys = Keys::new(&[SecretString::from("ab".repeat(32))]).unwrap();
    Private::with_keys(&config(), keys).unwrap()
}

fn sealed(private: &Private, value: &Value) -> (Value, SealedValues) {
    let known = SealedValues::default();
    let mut sealer = private.sealer(&known);
    let mut value = value.clone();
    sealer.value(&mut value);
    (value, sealer.take())
}

/// Values that must not be found in anything sealed. None of them is a part of another text here.
const CANARIES: [&str; 8] = [
    "jane.doe@canary.example",
    "j\u{fc}rgen+list@b\u{fc}ro.canary.example",
    "+49 170 1234567",
    "(555) 234-5678",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "KD-123456",
    "987-65-4321",
];

#[test]
fn a_value_is_one_token_wherever_it_stands() {
    let private = private();
    let input = json!({
        "email": "jane@x.example",
        "text": "Write to jane@x.example, not to sales@acme.example. His number is 078-05-1120.",
        "ssn": "078-05-1120",
        "tool": "{\"ssn\": \"078-05-1120\", \"birth_date\": 19800101}",
        "card": 4_111_111_111_111_111_u64,
        "list": [{"birth_date": {"year": 1980, "place": "Bonn am Rhein"}}, {"jane@x.example": null}],
        "n": 5, "none": {"ssn": null, "birth_date": ""}
    });
    let (out, entries) = sealed(&private, &input);
    let email = out["email"].as_str().unwrap();
    let ssn = out["ssn"].as_str().unwrap();
    assert!(email.starts_with("private-email-") && ssn.starts_with("private-ssn-"), "{out:#}");
    assert_eq!(
        out["text"].as_str().unwrap(),
        format!("Write to {email}, not to sales@acme.example. His number is {ssn}.")
    );
    assert!(
        out["tool"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{{\"ssn\": \"{ssn}\", \"birth_date\": \"private-birth_date-"))
    );
    assert!(out["card"].as_str().unwrap().starts_with("private-card-"));
    assert!(out["list"][0]["birth_date"]["place"].as_str().unwrap().starts_with("private-birth_date-"));
    assert!(out["list"][1].get(email).is_some());
    assert_eq!(out["n"], 5);
    assert_eq!(out["none"], json!({"ssn": null, "birth_date": ""}));
    assert_eq!(private.reveal(&out, &entries), input);
    // In another task too, and sealed once only.
    assert_eq!(sealed(&private, &json!("jane@x.example")).0.as_str(), Some(email));
    assert_eq!(sealed(&private, &out), (out, SealedValues::default()));
}

#[test]
fn what_is_known_to_the_task_is_found_in_prose_later() {
    let private = private();
    let (_, known) = sealed(&private, &json!({"ssn": "078-05-1120", "birth_date": 19_800_101}));
    let mut sealer = private.sealer(&known);
    let mut answer = "It belongs to 078-05-1120 of 19800101.".to_owned();
    sealer.text(&mut answer);
    assert!(!answer.contains("078") && !answer.contains("1980"), "{answer}");
    assert_eq!(
        private.reveal_text(&answer, &{
            let mut all = known.clone();
            all.add_all(&sealer.take());
            all
        }),
        "It belongs to 078-05-1120 of 19800101."
    );
}

#[test]
fn a_token_that_the_task_does_not_know_reveals_nothing() {
    let private = private();
    let (token, entries) = sealed(&private, &json!("jane@x.example"));
    assert_eq!(private.reveal(&token, &SealedValues::default()), token);
    let mut erased = entries.clone();
    for ciphertext in erased.values_mut() {
        "erased".clone_into(ciphertext);
    }
    assert_eq!(private.reveal(&token, &erased), token);
    let upper = Value::String(token.as_str().unwrap().to_ascii_uppercase());
    assert_eq!(private.reveal(&upper, &entries), "jane@x.example");
}

#[test]
fn something_that_only_looks_like_a_token_hides_nothing() {
    let private = private();
    for text in ["private-491701234567890-aaaaaaaaaaaaaaaa jane@x.example", "private-jane@x.example-aaaaaaaaaaaaaaaa"] {
        let (out, _) = sealed(&private, &json!(text));
        assert!(!out.as_str().unwrap().contains("jane@"), "{out}");
    }
}

#[test]
fn a_value_stays_where_it_is_put_in_an_address() {
    let private = private();
    let (token, entries) = sealed(&private, &json!("+49 170 1234567"));
    let token = token.as_str().unwrap();
    let url = format!("https://crm.example/find?phone={token}&x=1");
    assert_eq!(private.reveal_url(&url, &entries), "https://crm.example/find?phone=%2B49%20170%201234567&x=1");
    let (token, entries) = sealed(&private, &json!("https://a.example/?mail=jane%40x.example"));
    assert_eq!(private.reveal_url(token.as_str().unwrap(), &entries), "https://a.example/?mail=jane%40x.example");
}

#[test]
fn json_in_a_text_is_json_again_when_it_is_revealed() {
    let private = private();
    for text in [
        r#"{"ssn": 123456789, "a": true}"#,
        r#"{"ssn": {"a": [1, "b"]}}"#,
        r#"{\"ssn\": false, \"birth_date\": \"a\\\"b c d\"}"#,
        r#"answer: {"ssn": "987-65-4321", "note": "987-65-4321"}"#,
    ] {
        let (out, entries) = sealed(&private, &json!(text));
        assert_ne!(out, json!(text));
        assert_eq!(private.reveal(&out, &entries), json!(text), "{out}");
    }
}

#[test]
fn a_field_in_a_name_is_learned_like_one_in_a_text() {
    let private = private();
    let (out, _) = sealed(&private, &json!({"078-05-1120, \"ssn\": 078-05-1120": null}));
    assert!(!out.to_string().contains("078-05"), "{out}");
}

#[test]
fn a_missing_key_is_an_error_that_says_so() {
    let error = Private::load(&config()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "private_data.key: the environment variable NOT_READ is not set; nothing is taken in without it, so that no \
         private value is kept in the clear"
    );
}

fn texts() -> impl Strategy<Value = String> {
    let canary = prop::sample::select(CANARIES.as_slice()).prop_map(str::to_owned);
    let word = prop_oneof![
        canary,
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("\\n".to_owned()),
        Just(" ".to_owned()),
        Just(": ".to_owned()),
        Just("\"ssn\"".to_owned()),
        Just("\\\"birth_date\\\"".to_owned()),
        Just("{".to_owned()),
        Just("]".to_owned()),
        Just("%".to_owned()),
        Just("private-email-".to_owned()),
        "[a-zA-Z0-9 @.,+-]{0,12}",
        "\\PC{0,6}",
    ];
    prop::collection::vec(word, 0..8).prop_map(|words| words.concat())
}

/// Without digits, so that there is no canary in it.
fn around() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("\"ssn\": ".to_owned()),
        Just("\\n".to_owned()),
        "[a-zA-Z@.,+%&{-]{0,8}"
    ];
    prop::collection::vec(word, 0..6).prop_map(|words| words.concat())
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e12..1e12_f64).prop_map(Value::from),
        texts().prop_map(Value::from),
    ];
    let key = prop_oneof![Just("ssn".to_owned()), Just("BIRTH_DATE".to_owned()), "[a-z]{1,3}", texts()];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_sealed_is_revealed_as_it_was(value in values()) {
        let private = private();
        let (out, entries) = sealed(&private, &value);
        prop_assert_eq!(private.reveal(&out, &entries), value, "{}", out);
    }

    #[test]
    fn what_is_sealed_is_not_sealed_again(value in values()) {
        let private = private();
        let (out, entries) = sealed(&private, &value);
        let mut sealer = private.sealer(&entries);
        let mut again = out.clone();
        sealer.value(&mut again);
        prop_assert_eq!(&again, &out);
        prop_assert!(sealer.is_empty());
    }

    /// Spaces around, because letters and digits that touch a number make another number of it.
    #[test]
    fn no_private_value_survives(canary in prop::sample::select(CANARIES[..7].to_vec()), before in around(), after in around(), escape in 0..4_usize, key in any::<bool>()) {
        let private = private();
        let escaped = match escape {
            1 => canary.replace('@', "\\u0040").replace('+', "\\u002B"),
            2 => canary.replace('@', "%40").replace('+', "%2B"),
            3 => canary.replace('@', "&#64;").replace('+', "&#x2b;"),
            _ => canary.to_owned(),
        };
        let text = format!("{before} \n {escaped} \n {after}");
        let value = if key { json!({text: 1}) } else { json!([text]) };
        let (out, entries) = sealed(&private, &value);
        let written = out.to_string();
        let rest = Token::all_in(&written).fold(written.clone(), |text, (_, token)| text.replace(token.as_str(), " "));
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let local = canary.split('@').next().unwrap_or_default();
        prop_assert!(!rest.contains(canary) && !rest.contains(&escaped), "{}", rest);
        if canary.contains('@') {
            prop_assert!(!rest.contains(local), "{}", rest);
        }
        prop_assert!(entries.values().all(|entry| !entry.contains(canary) && (digits(canary).len() < 7 || !entry.contains(&digits(canary)))));
        prop_assert_eq!(private.reveal(&out, &entries), value);
    }
}
