//! CSV (RFC 4180): a header, then one object a record.
//!
//! Cells are texts; the input schema says which of them are numbers, booleans
//! or JSON. An empty cell is an absent key. A column that the schema does not
//! know stays a text, and the schema decides whether it may be there.

use csv_core::ReadRecordResult;
use serde_json::{Map, Value};

use super::{Front, Reader, Row, RowLimits};
use crate::text::check_text;

/// Columns of one file.
const COLUMNS: usize = 1_000;

/// Reads CSV.
pub struct Csv {
    limits: RowLimits,
    front: Front,
    columns: Columns,
    parser: csv_core::Reader,
    cells: Vec<u8>,
    filled: usize,
    ends: Vec<usize>,
    ended: usize,
    state: State,
    /// The line that is read now, from 1.
    line: u64,
    /// The line on which the record began.
    began: u64,
}

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a record.
    Between,
    /// In a record.
    Within,
    /// In a record that is too large: it is read to its end and not kept.
    Overlong,
}

/// The columns, once the header was read.
struct Columns {
    types: Types,
    names: Option<Vec<(String, Cell)>>,
}

/// What the schema says of the top-level keys of an input.
struct Types(Map<String, Value>);

/// What the texts of a column may become, tried in this order; a text where nothing fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Cell(Vec<Kind>);

/// A type of JSON that is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Boolean,
    /// An object or a list, written as JSON.
    Json,
}

impl Csv {
    /// A reader at the beginning of a file, for inputs of this schema.
    pub fn new(limits: RowLimits, schema: Option<&Value>) -> Self {
        let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
        Self {
            limits,
            front: Front::default(),
            columns: Columns { types: Types(properties.cloned().unwrap_or_default()), names: None },
            parser: csv_core::Reader::new(),
            cells: vec![0; 1_024.min(limits.bytes.max(1))],
            filled: 0,
            ends: vec![0; 32],
            ended: 0,
            state: State::Between,
            line: 1,
            began: 1,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), String> {
        loop {
            if self.state == State::Between {
                // Line ends between records (the second half of CR LF, empty lines) are skipped
                // here, so that a record's line is the one on which its first cell stands.
                let skip = bytes.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
                self.line += newlines(&bytes[..skip]);
                bytes = &bytes[skip..];
                if bytes.is_empty() {
                    return Ok(());
                }
                (self.state, self.began, self.filled, self.ended) = (State::Within, self.line, 0, 0);
            }
            let complete = self.step(&mut bytes);
            if complete {
                self.end_record(rows)?;
            } else if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads on in a record; whether it is complete.
    fn step(&mut self, bytes: &mut &[u8]) -> bool {
        let (cells, ends) = (&mut self.cells[self.filled..], &mut self.ends[self.ended..]);
        let (result, read, filled, ended) = self.parser.read_record(bytes, cells, ends);
        self.line += newlines(&bytes[..read]);
        *bytes = &bytes[read..];
        if self.state == State::Within {
            self.filled += filled;
            self.ended += ended;
        }
        match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => false,
            ReadRecordResult::Record => true,
            ReadRecordResult::OutputFull if self.state == State::Within && self.cells.len() < self.limits.bytes => {
                let larger = (self.cells.len() * 2).min(self.limits.bytes);
                self.cells.resize(larger, 0);
                false
            }
            ReadRecordResult::OutputEndsFull if self.state == State::Within && self.ends.len() < COLUMNS => {
                let more = (self.ends.len() * 2).min(COLUMNS);
                self.ends.resize(more, 0);
                false
            }
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                (self.state, self.filled, self.ended) = (State::Overlong, 0, 0);
                false
            }
        }
    }

    fn end_record(&mut self, rows: &mut Vec<Row>) -> Result<(), String> {
        let overlong = self.state == State::Overlong;
        self.state = State::Between;
        if overlong {
            let reason = format!(
                "the record (lines {} to {}) has more than {} bytes or {COLUMNS} cells; is a quote left open?",
                self.began, self.line, self.limits.bytes
            );
            if self.columns.names.is_none() {
                return Err(format!("line {}: {reason}", self.began));
            }
            rows.push(Row { line: self.began, input: Err(reason) });
            return Ok(());
        }
        let cells = Cells { bytes: &self.cells[..self.filled], ends: &self.ends[..self.ended] };
        match &self.columns.names {
            None => {
                let names = self.columns.types.header(&cells).map_err(|why| format!("line {}: {why}", self.began))?;
                self.columns.names = Some(names);
            }
            Some(names) => {
                let input = object(names, &cells, self.limits.depth);
                rows.push(Row { line: self.began, input });
            }
        }
        Ok(())
    }
}

impl Reader for Csv {
    fn push(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), String> {
        let bytes = self.front.pass(bytes);
        self.feed(&bytes, rows)
    }

    fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), String> {
        let rest = self.front.rest();
        self.feed(&rest, rows)?;
        // An empty input tells the parser that the file has ended. Room may have to be made more than once.
        while self.state != State::Between {
            if self.step(&mut (&[] as &[u8])) {
                self.end_record(rows)?;
            }
        }
        if self.columns.names.is_none() {
            return Err("the file is empty; its first line must name the columns".to_owned());
        }
        Ok(())
    }
}

/// The cells of one record.
struct Cells<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Cells<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends).map(move |(start, end)| bytes.get(start..*end).unwrap_or_default())
    }
}

impl Types {
    fn header(&self, cells: &Cells<'_>) -> Result<Vec<(String, Cell)>, String> {
        let mut names: Vec<(String, Cell)> = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            let name =
                std::str::from_utf8(cell).map_err(|_| format!("the name of column {} is not UTF-8", index + 1))?;
            let name = name.trim();
            if name.is_empty() {
                return Err(format!("column {} has no name; the first line must name the columns", index + 1));
            }
            if names.iter().any(|(known, _)| known == name) {
                return Err(format!("two columns have the name {name:?}"));
            }
            names.push((name.to_owned(), self.cell(name)));
        }
        Ok(names)
    }

    fn cell(&self, name: &str) -> Cell {
        let types = self.0.get(name).and_then(|property| property.get("type"));
        let named: Vec<&str> = match types {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        // Where a text will do, a text it stays: "007" must not become 7.
        if named.contains(&"string") {
            return Cell::default();
        }
        let kind = |name: &&str| match *name {
            "integer" => Some(Kind::Integer),
            "number" => Some(Kind::Number),
            "boolean" => Some(Kind::Boolean),
            "object" | "array" => Some(Kind::Json),
            _ => None,
        };
        Cell(named.iter().filter_map(kind).collect())
    }
}

impl Cell {
    /// What a text becomes; one that does not fit stays a text, and the schema says so.
    fn value(&self, text: &str, depth: usize) -> Value {
        self.0.iter().find_map(|kind| kind.value(text, depth)).unwrap_or_else(|| text.into())
    }
}

impl Kind {
    fn value(self, text: &str, depth: usize) -> Option<Value> {
        let trimmed = text.trim();
        match self {
            Self::Integer => trimmed.parse::<i64>().ok().map(Value::from),
            Self::Number => serde_json::from_str(trimmed).ok().filter(Value::is_number),
            Self::Boolean if trimmed.eq_ignore_ascii_case("true") => Some(true.into()),
            Self::Boolean if trimmed.eq_ignore_ascii_case("false") => Some(false.into()),
            Self::Boolean => None,
            Self::Json => {
                check_text(text.as_bytes(), depth).ok()?;
                serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
            }
        }
    }
}

fn object(names: &[(String, Cell)], cells: &Cells<'_>, depth: usize) -> Result<Value, String> {
    if cells.ends.len() != names.len() {
        let open = if cells.bytes.contains(&b'\n') { "; is a quote left open?" } else { "" };
        let (found, wanted) = (cells.ends.len(), names.len());
        return Err(format!("the record has {found} cells, the header has {wanted}{open}"));
    }
    let mut object = Map::with_capacity(names.len());
    for ((name, cell), bytes) in names.iter().zip(cells.iter()) {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("column {name:?} is not UTF-8"))?;
        if !text.is_empty() {
            object.insert(name.clone(), cell.value(text, depth));
        }
    }
    Ok(Value::Object(object))
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(pieces: &[&[u8]], bytes: usize, schema: &Value) -> Result<Vec<Row>, String> {
        let mut reader = Csv::new(RowLimits { bytes, depth: 8 }, Some(schema));
        let mut rows = Vec::new();
        for piece in pieces {
            reader.push(piece, &mut rows)?;
        }
        reader.finish(&mut rows)?;
        Ok(rows)
    }

    fn rows(text: &str) -> Vec<(u64, Result<Value, String>)> {
        let rows = read(&[text.as_bytes()], 1_000, &json!({})).unwrap();
        rows.into_iter().map(|row| (row.line, row.input)).collect()
    }

    #[test]
    fn a_record_has_the_line_of_its_first_cell() {
        let found = rows("\u{feff}a,b\r\n1,2\r\n\r\n\"x\r\ny\",3\r\n4,5");
        assert_eq!(
            found,
            [
                (2, Ok(json!({"a": "1", "b": "2"}))),
                (4, Ok(json!({"a": "x\r\ny", "b": "3"}))),
                (6, Ok(json!({"a": "4", "b": "5"}))),
            ]
        );
    }

    #[test]
    fn quotes_hold_commas_quotes_and_nothing() {
        assert_eq!(rows("a,b\n\"x,y\",\"say \"\"hi\"\"\"\n\"\",z\n")[0].1, Ok(json!({"a": "x,y", "b": "say \"hi\""})));
        assert_eq!(rows("a,b\n\"\",z\n")[0].1, Ok(json!({"b": "z"})));
    }

    #[test]
    fn the_schema_says_what_cells_become() {
        let schema = json!({"properties": {
            "n": {"type": "integer"}, "x": {"type": ["number", "null"]}, "ok": {"type": "boolean"},
            "zip": {"type": "string"}, "either": {"type": ["string", "integer"]}, "tags": {"type": "array"},
        }});
        let file = b"n,x,ok,zip,either,tags,other\n7,1.5,TRUE,007,8,\"[1,\"\"a\"\"]\",9\n";
        let rows = read(&[file], 1_000, &schema).unwrap();
        let good = json!({"n": 7, "x": 1.5, "ok": true, "zip": "007", "either": "8", "tags": [1, "a"], "other": "9"});
        assert_eq!(rows[0].input, Ok(good));
        let rows = read(&[b"n,ok,tags\nseven,maybe,[1\n"], 1_000, &schema).unwrap();
        assert_eq!(rows[0].input, Ok(json!({"n": "seven", "ok": "maybe", "tags": "[1"})));
    }

    #[test]
    fn bad_records_are_named_and_the_others_go_on() {
        let mut file = b"a,b\n1\n\xff,2\n".to_vec();
        file.extend_from_slice("x".repeat(200).as_bytes());
        file.extend_from_slice(b",1\n3,4\n");
        let rows = read(&[&file], 100, &json!({})).unwrap();
        let lines: Vec<_> = rows.iter().map(|row| (row.line, row.input.is_ok())).collect();
        assert_eq!(lines, [(2, false), (3, false), (4, false), (5, true)]);
        assert!(rows[0].input.as_ref().unwrap_err().contains("1 cells, the header has 2"));
        assert!(rows[1].input.as_ref().unwrap_err().contains("not UTF-8"));
        assert!(rows[2].input.as_ref().unwrap_err().contains("more than 100 bytes"));
    }

    #[test]
    fn a_header_that_names_no_columns_is_an_error() {
        for file in ["", "\n\n", "a,,b\n", "a,a\n"] {
            assert!(read(&[file.as_bytes()], 100, &json!({})).is_err(), "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn records_do_not_depend_on_how_the_bytes_arrive(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b','), Just(b'"'), Just(b'a'), Just(0xff), any::<u8>()], 0..80,
            ),
            cut: proptest::sample::Index,
        ) {
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let file = [b"a,b\n".as_slice(), &bytes].concat();
            let whole = read(&[&file], 40, &json!({})).unwrap();
            prop_assert_eq!(read(&[&file[..4 + cut], &file[4 + cut..]], 40, &json!({})).unwrap(), whole);
        }

        #[test]
        fn what_a_writer_quotes_is_read_back(cells in proptest::collection::vec("[a-z\",\r\n é]{1,6}", 1..6)) {
            let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            let names: Vec<String> = (0..cells.len()).map(|index| format!("c{index}")).collect();
            let file = format!("{}\r\n{}\r\n", names.join(","), quoted.join(","));
            let rows = read(&[file.as_bytes()], 1_000, &json!({})).unwrap();
            let wanted: Map<String, Value> = names.into_iter().zip(cells.into_iter().map(Value::from)).collect();
            prop_assert_eq!(&rows[0].input, &Ok(Value::Object(wanted)));
            prop_assert_eq!(rows.len(), 1);
        }
    }
}
