//! Numbers that carry their own check: cards and bank accounts.

/// Countries with the length of their IBANs, as SWIFT's registry lists them.
const COUNTRIES: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 \
    DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 \
    KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 \
    PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 \
    YE30";

/// The digits of payment cards.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Whether a byte may stand between two groups.
const fn separates(byte: u8) -> bool {
    matches!(byte, b' ' | b'-')
}

/// Cards within a run of digits that single blanks or hyphens separate: starts and ends at the edges of groups.
pub(super) fn cards(run: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let edge = |at: usize| at == 0 || separates(run[at - 1]);
    let mut start = 0;
    while start < run.len() {
        match card_end(run, start).filter(|_| run[start].is_ascii_digit() && edge(start)) {
            Some(end) => {
                found.push(start..end);
                start = end;
            }
            None => start += 1,
        }
    }
    found
}

/// The farthest end of a card that starts here.
fn card_end(run: &[u8], start: usize) -> Option<usize> {
    let mut digits = Vec::with_capacity(*CARD_DIGITS.end());
    let mut end = None;
    for (at, byte) in run.iter().enumerate().skip(start) {
        if !byte.is_ascii_digit() {
            continue;
        }
        digits.push(byte - b'0');
        if digits.len() > *CARD_DIGITS.end() {
            break;
        }
        let closed = run.get(at + 1).is_none_or(|next| !next.is_ascii_digit());
        if closed && CARD_DIGITS.contains(&digits.len()) && is_issued(&digits) && luhn(&digits) {
            end = Some(at + 1);
        }
    }
    end
}

/// Whether a card may begin so: the ranges of ISO/IEC 7812 that are for payment.
fn is_issued(digits: &[u8]) -> bool {
    match digits {
        [2, second, ..] => (2..=7).contains(second),
        [first, ..] => (3..=6).contains(first),
        [] => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => 2 * digit - 9,
            (_, digit) => 2 * digit,
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != 0)
}

/// The end of an IBAN that starts here.
pub(super) fn iban_end(text: &[u8], start: usize) -> Option<usize> {
    let head = text.get(start..start + 4)?;
    let [first, second, third, fourth] = *head else { return None };
    if !first.is_ascii_alphabetic()
        || !second.is_ascii_alphabetic()
        || !third.is_ascii_digit()
        || !fourth.is_ascii_digit()
    {
        return None;
    }
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let listed = COUNTRIES.split_ascii_whitespace().find(|entry| entry.as_bytes().starts_with(&country))?;
    let length: usize = listed.get(2..)?.parse().ok()?;
    let mut letters = Vec::with_capacity(length);
    let mut at = start;
    while letters.len() < length {
        match text.get(at)? {
            byte if byte.is_ascii_alphanumeric() => letters.push(byte.to_ascii_uppercase()),
            byte if separates(*byte) && at > start && !separates(text[at - 1]) => {}
            _ => return None,
        }
        at += 1;
    }
    let ends = text.get(at).is_none_or(|next| !next.is_ascii_alphanumeric());
    (ends && mod_97(&letters) == 1).then_some(at)
}

/// ISO 7064: the first four characters behind the others, letters as 10 to 35.
fn mod_97(letters: &[u8]) -> u32 {
    letters.iter().cycle().skip(4).take(letters.len()).fold(0, |rest, letter| match letter {
        b'0'..=b'9' => (rest * 10 + u32::from(letter - b'0')) % 97,
        _ => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn cards_are_known_by_their_check() {
        for (run, found) in [
            ("4111111111111111", vec!["4111111111111111"]),
            ("4111 1111 1111 1111 123", vec!["4111 1111 1111 1111"]),
            ("3782-822463-10005", vec!["3782-822463-10005"]),
            ("12 4111 1111 1111 1111", vec!["4111 1111 1111 1111"]),
            ("5555555555554444 4012888888881881", vec!["5555555555554444", "4012888888881881"]),
            ("4111111111111112", vec![]),
            ("1763750000000000000", vec![]),
            ("0000000000000000", vec![]),
            ("64111111111111111", vec![]),
        ] {
            let cards: Vec<_> = cards(run.as_bytes()).into_iter().map(|place| &run[place]).collect();
            assert_eq!(cards, found, "{run}");
        }
    }

    #[test]
    fn ibans_are_known_by_country_length_and_check() {
        for iban in
            ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb82 WEST 1234 5698 7654 32", "NO9386011117947"]
        {
            assert_eq!(iban_end(iban.as_bytes(), 0), Some(iban.len()), "{iban}");
            assert_eq!(iban_end(format!("{iban} EUR").as_bytes(), 0), Some(iban.len()), "{iban}");
        }
        for other in [
            "DE89370400440532013001",
            "DE8937040044053201300",
            "XX89370400440532013000",
            "DE89",
            "DE89  3704 0044 0532 0130 00",
            "DE893704004405320130001",
        ] {
            assert_eq!(iban_end(other.as_bytes(), 0), None, "{other}");
        }
    }
}
