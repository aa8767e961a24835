//! Query parameters: read by name, repeated where that makes sense, unknown ones refused.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use common::store::Cursor;

use crate::problem::Problem;

/// At most so many parameters in one query.
const PARAMETERS: usize = 100;

/// The parameters of a request that nobody has asked for yet.
#[derive(Debug)]
pub(crate) struct Query {
    rest: Vec<(String, String)>,
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Query {
    fn parse(query: &str) -> Result<Self, Problem> {
        let rest: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().take(PARAMETERS + 1).collect();
        if rest.len() > PARAMETERS {
            return Err(Problem::invalid(format!("a query has at most {PARAMETERS} parameters")));
        }
        Ok(Self { rest })
    }

    /// All values of a parameter.
    pub(crate) fn many(&mut self, name: &str) -> Vec<String> {
        let (named, rest) = std::mem::take(&mut self.rest).into_iter().partition(|(key, _)| key == name);
        self.rest = rest;
        let named: Vec<(String, String)> = named;
        named.into_iter().map(|(_, value)| value).collect()
    }

    /// A parameter that is given once at most.
    pub(crate) fn one<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let mut values = self.many(name).into_iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::invalid(format!("the query parameter {name} is given more than once")));
        }
        value.parse().map(Some).map_err(|error| Problem::invalid(format!("the query parameter {name}: {error}")))
    }

    /// A number from 1 to `most`.
    pub(crate) fn limit(&mut self, default: usize, most: usize) -> Result<usize, Problem> {
        let limit = self.one("limit")?.unwrap_or(default);
        if !(1..=most).contains(&limit) {
            return Err(Problem::invalid(format!("the query parameter limit is {limit}; use 1 to {most}")));
        }
        Ok(limit)
    }

    /// Where the page before ended.
    pub(crate) fn cursor(&mut self) -> Result<Option<Cursor>, Problem> {
        let text: Option<String> = self.one("cursor")?;
        text.map(|text| {
            text.parse().map(Cursor).map_err(|_| {
                Problem::invalid("the query parameter cursor is not one that a page before this gave as `next`")
            })
        })
        .transpose()
    }

    /// `label=NAME:VALUE`, any number of them.
    pub(crate) fn labels(&mut self) -> Result<BTreeMap<String, String>, Problem> {
        let pair = |text: String| match text.split_once(':') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Problem::invalid(format!("the query parameter label is {text:?}; write NAME:VALUE"))),
        };
        self.many("label").into_iter().map(pair).collect()
    }

    /// A list of values: repeated, or with commas.
    pub(crate) fn list<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Vec<T>, Problem> {
        let values = self.many(name);
        let items = values.iter().flat_map(|value| value.split(',')).filter(|item| !item.is_empty());
        items
            .map(|item| item.parse().map_err(|error| Problem::invalid(format!("the query parameter {name}: {error}"))))
            .collect()
    }

    /// Refuses what nobody asked for.
    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.rest.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid(format!("there is no query parameter {name:?} here"))),
        }
    }
}

/// A cursor as it goes over the wire.
pub(crate) fn write_cursor(cursor: Option<Cursor>) -> Option<String> {
    cursor.map(|Cursor(task)| task.to_string())
}
