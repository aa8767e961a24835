//! Finds private values by their form.

use std::ops::Range;

use regex::Regex;

use super::number::{cards, iban_end};
use crate::config::PrivateKind;

/// An address of e-mail: a local part without the characters that nobody uses, and a domain with a dot.
const EMAIL: &str = r"[\p{L}\p{N}_][\p{L}\p{N}._%+'-]*@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]*[\p{L}\p{N}])?\.)+\p{L}[\p{L}\p{N}-]*[\p{L}\p{N}]";
/// Telephone numbers: with + or 00 and a country; with an area code of North America; with a trunk 0.
const PHONES: [&str; 4] = [
    r"(?:\+|\b00)[ (]{0,2}[1-9](?:[ \x{a0}().\-/]{0,3}[0-9]){6,14}",
    r"(?:1[ .\-])?\(?[2-9][0-9]{2}\)?[ .\-]{1,2}[2-9][0-9]{2}[ .\-][0-9]{4}",
    r"\(?0[1-9][0-9]{0,4}\)?(?:[ .\-/]{1,3}[0-9]+){1,6}",
    r"0[1-9][0-9]{8,10}",
];
/// A day as `01.02.2026`: it is no telephone number with a trunk 0.
const DAY: &str = r"^[0-9]{2}[./-][0-9]{2}[./-][0-9]{4}";
/// A run of digits that may hold a card.
const DIGITS: &str = r"[0-9](?:[ \-]?[0-9]){12,}";

/// The forms that are looked for.
pub(super) struct Forms {
    email: Option<Regex>,
    phones: Option<(Vec<Regex>, Regex)>,
    digits: Option<Regex>,
    iban: bool,
    patterns: Vec<(String, Regex)>,
    except: Vec<Regex>,
}

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found<'f> {
    pub(super) place: Range<usize>,
    pub(super) kind: &'f str,
}

impl Forms {
    pub(super) fn new(
        kinds: &[PrivateKind],
        patterns: Vec<(String, Regex)>,
        except: Vec<Regex>,
    ) -> Result<Self, regex::Error> {
        let wanted = |kind| kinds.contains(&kind);
        let phones = || Ok((PHONES.iter().map(|form| Regex::new(form)).collect::<Result<_, _>>()?, Regex::new(DAY)?));
        Ok(Self {
            email: wanted(PrivateKind::Email).then(|| Regex::new(EMAIL)).transpose()?,
            phones: wanted(PrivateKind::Phone).then(phones).transpose()?,
            digits: wanted(PrivateKind::Card).then(|| Regex::new(DIGITS)).transpose()?,
            iban: wanted(PrivateKind::Iban),
            patterns,
            except,
        })
    }

    /// Everything in a text that has one of the forms, in no order; places may overlap.
    pub(super) fn all_in(&self, text: &str) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        for (kind, pattern) in &self.patterns {
            found.extend(pattern.find_iter(text).map(|hit| Found { place: hit.range(), kind }));
        }
        if let Some(email) = self.email.as_ref().filter(|_| text.contains('@')) {
            found.extend(email.find_iter(text).map(|hit| Found { place: hit.range(), kind: "email" }));
        }
        if self.has_digits(text) {
            self.numbers(text, &mut found);
        }
        found.retain(|hit| !hit.place.is_empty() && !self.is_excepted(&text[hit.place.clone()]));
        found
    }

    /// Whether a number of JSON as a whole has one of the forms.
    pub(super) fn of_number(&self, text: &str) -> Option<&str> {
        self.all_in(text).into_iter().find(|hit| hit.place == (0..text.len())).map(|hit| hit.kind)
    }

    fn is_excepted(&self, text: &str) -> bool {
        self.except.iter().any(|pattern| pattern.is_match(text))
    }

    /// Whether there are enough digits for a number of any kind.
    fn has_digits(&self, text: &str) -> bool {
        (self.phones.is_some() || self.digits.is_some() || self.iban)
            && text.bytes().filter(u8::is_ascii_digit).nth(6).is_some()
    }

    fn numbers<'f>(&'f self, text: &str, found: &mut Vec<Found<'f>>) {
        let bytes = text.as_bytes();
        if let Some(digits) = &self.digits {
            for run in digits.find_iter(text) {
                let starts = !precedes_number(text, run.start());
                let ends = bytes.get(run.end()).is_none_or(|next| !next.is_ascii_alphanumeric());
                for card in cards(run.as_str().as_bytes()) {
                    // In the middle of something longer it is no card.
                    if (card.start > 0 || starts) && (card.end < run.len() || ends) {
                        found.push(Found { place: run.start() + card.start..run.start() + card.end, kind: "card" });
                    }
                }
            }
        }
        if self.iban {
            let mut at = 0;
            while at < bytes.len() {
                let edge = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
                match iban_end(bytes, at).filter(|_| edge) {
                    Some(end) => {
                        found.push(Found { place: at..end, kind: "iban" });
                        at = end;
                    }
                    None => at += 1,
                }
            }
        }
        if let Some((phones, day)) = &self.phones {
            for (form, regex) in phones.iter().enumerate() {
                for hit in regex.find_iter(text).filter(|hit| is_phone(text, form, hit, day)) {
                    found.push(Found { place: hit.range(), kind: "phone" });
                }
            }
        }
    }
}

/// Whether the character before belongs to the number, so that it starts earlier.
fn precedes_number(text: &str, start: usize) -> bool {
    let before = text[..start].chars().next_back();
    before.is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | '.'))
}

fn is_phone(text: &str, form: usize, hit: &regex::Match<'_>, day: &Regex) -> bool {
    let digits = hit.as_str().bytes().filter(u8::is_ascii_digit).count();
    let goes_on = text[hit.end()..].chars().next().is_some_and(|next| next.is_alphanumeric() || next == '_');
    match form {
        // With a country in front there is no doubt where it starts, and digits that follow may be another number.
        0 => !text[..hit.start()].ends_with(|before: char| before.is_alphanumeric()),
        2 => {
            !precedes_number(text, hit.start()) && !goes_on && (8..=13).contains(&digits) && !day.is_match(hit.as_str())
        }
        _ => !precedes_number(text, hit.start()) && !goes_on,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(text: &str) -> Vec<(String, String)> {
        let patterns = vec![("customer".to_owned(), Regex::new(r"KD-[0-9]{6}").unwrap())];
        let except = vec![Regex::new(r"@acme\.example$").unwrap()];
        let forms = Forms::new(&PrivateKind::ALL, patterns, except).unwrap();
        let mut all: Vec<_> = forms.all_in(text).into_iter().map(|hit| (hit.place, hit.kind)).collect();
        all.sort_by_key(|(place, _)| (place.start, place.end));
        all.into_iter().map(|(place, kind)| (kind.to_owned(), text[place].to_owned())).collect()
    }

    #[test]
    fn private_values_are_found_in_text() {
        for (text, kind, value) in [
            ("mail jane.doe+x@mail.example.org.", "email", "jane.doe+x@mail.example.org"),
            ("<o'brien@exämple.org>", "email", "o'brien@exämple.org"),
            ("a=jane@x.co&b", "email", "jane@x.co"),
            ("call +49 (170) 123-45 67!", "phone", "+49 (170) 123-45 67"),
            ("0049 170 1234567", "phone", "0049 170 1234567"),
            ("(555) 234-5678", "phone", "(555) 234-5678"),
            ("1-555-234-5678", "phone", "1-555-234-5678"),
            ("Tel. 030/12 34 56", "phone", "030/12 34 56"),
            ("01 23 45 67 89", "phone", "01 23 45 67 89"),
            ("tel:015112345678", "phone", "015112345678"),
            ("card 4111 1111 1111 1111,", "card", "4111 1111 1111 1111"),
            ("IBAN DE89 3704 0044 0532 0130 00 bei", "iban", "DE89 3704 0044 0532 0130 00"),
            ("number KD-123456.", "customer", "KD-123456"),
        ] {
            let all = found(text);
            assert!(all.contains(&(kind.to_owned(), value.to_owned())), "{text}: {all:?}");
        }
    }

    #[test]
    fn what_is_not_private_stays() {
        for text in [
            "2026-11-21T08:00:00Z",
            "01.02.2026",
            "05-11-2026 12:30",
            "192.168.100.200",
            "v1.22.333.4444",
            "@jane",
            "jane@localhost",
            "sales@acme.example",
            "019a1b2c-3d4e-7f50-8123-456789abcdef",
            "order 123456",
            "3.14159265358979",
            "0.0123456789",
            "1763750000000",
            "$1,234,567.89",
            "INV_0123456789",
            "sha256:0123456789abcdef0123456789",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
