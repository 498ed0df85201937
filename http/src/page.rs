//! Queries of lists, read as tolerantly as the web client writes them: it sends option objects as query texts, so that `null`,
//! `undefined` and `NaN` mean "not given", and unknown names are ignored.
//!
//! Limits: a page holds at most [`PAGE_LIMIT_MAX`] rows; the default is 100.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde_json::json;
use sluse_schema::port::admin::Page;
use utoipa::IntoParams;

use crate::config::PAGE_LIMIT_MAX;
use crate::error::{ApiError, ApiResult};
use crate::validate::FieldError;

const LIMIT_DEFAULT: i64 = 100;

/// What every list takes, as the document shows it; [`Query`] reads it.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows on a page, at most 1000.
    #[param(minimum = 0, default = 100)]
    pub limit: Option<i64>,
    /// Rows before the page.
    #[param(minimum = 0, default = 0)]
    pub offset: Option<i64>,
    /// `ASC` or `DESC`, in any case.
    pub sort: Option<String>,
    /// The column to sort by; one that the list does not know means the id.
    #[param(rename = "orderOn")]
    pub order_on: Option<String>,
}

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of this name, as it was sent.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// How often a name is given.
    pub fn num(&self, name: &str) -> usize {
        self.0.iter().filter(|(n, _)| n == name).count()
    }

    /// The first value of this name that says something.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !["", "null", "undefined", "NaN"].contains(value))
    }

    /// A number, which is given once.
    ///
    /// # Errors
    /// 400 when it is given and is none, or given twice.
    pub fn number(&self, name: &str) -> ApiResult<Option<f64>> {
        let is_repeated = self.num(name) > 1;
        let Some(text) = self.text(name).or(is_repeated.then_some("")) else { return Ok(None) };
        match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() && !is_repeated => Ok(Some(number)),
            _ => Err(self.no_number(name)),
        }
    }

    fn no_number(&self, name: &str) -> ApiError {
        let value = if self.num(name) > 1 { self.as_target()[name].take() } else { json!(null) };
        FieldError::new(name, Some(value))
            .failing("isNumber", format!("{name} must be a number conforming to the specified constraints"))
            .about(self.as_target())
            .into_api_error()
    }

    /// An integer.
    ///
    /// # Errors
    /// 400 when it is given and is none, or given twice.
    pub fn int(&self, name: &str) -> ApiResult<Option<i64>> {
        match self.number(name)? {
            Some(number) if number.fract() != 0.0 => Err(self.no_number(name)),
            other => Ok(other.map(|number| number as i64)),
        }
    }

    /// An integer that must be there, in the words of class-validator.
    ///
    /// # Errors
    /// 400 when it is not.
    pub fn needed_int(&self, name: &str) -> ApiResult<i64> {
        self.int(name)?.ok_or_else(|| self.no_number(name))
    }

    /// A number of rows. Fractions are rounded, as PostgreSQL does; it refuses negative ones, with which the reference answers 500.
    fn rows(&self, name: &str) -> ApiResult<Option<i64>> {
        let number = self.number(name)?.map(|number| number.round() as i64);
        if number.is_some_and(|number| number < 0) {
            return Err(FieldError::new(name, Some(json!(number)))
                .failing("min", format!("{name} must not be less than 0"))
                .about(self.as_target())
                .into_api_error());
        }
        Ok(number)
    }

    /// An integer that must be there.
    ///
    /// # Errors
    /// 400 in the words of the reference's parser of integers.
    pub fn required_int(&self, name: &str) -> ApiResult<i64> {
        let text = self.raw(name).unwrap_or_default();
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ApiError::bad_request("Validation failed (numeric string is expected)"));
        }
        // Beyond every number that means something here.
        Ok(text.parse().unwrap_or(i64::MAX))
    }

    /// `true` only for the text `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// Limit, offset and order.
    ///
    /// # Errors
    /// 400 for a limit or an offset that is no number, or negative.
    pub fn page(&self) -> ApiResult<Page> {
        let limit = match self.rows("limit")? {
            None => LIMIT_DEFAULT,
            // To the reference no limit at all.
            Some(0) => PAGE_LIMIT_MAX,
            Some(limit) => limit.min(PAGE_LIMIT_MAX),
        };
        self.page_of(limit)
    }

    /// The same, where an explicit `limit=null` means "as many as there may be on a page".
    ///
    /// # Errors
    /// As [`Query::page`].
    pub fn page_or_all(&self) -> ApiResult<Page> {
        match self.raw("limit") {
            Some("null" | "undefined") => self.page_of(PAGE_LIMIT_MAX),
            _ => self.page(),
        }
    }

    /// For lists with which the reference fails over an order without its direction.
    ///
    /// # Errors
    /// 400 for `orderOn` without `sort`.
    pub fn check_direction(&self) -> ApiResult<()> {
        if self.text("orderOn").is_some() && self.raw("sort").is_none() {
            return Err(FieldError::new("sort", None)
                .failing("isString", "sort must be a string")
                .about(self.as_target())
                .into_api_error());
        }
        Ok(())
    }

    /// For lists with which the reference fails over a value that it does not know.
    ///
    /// # Errors
    /// 400 when `name` says something that is none of `values`.
    pub fn check_among(&self, name: &str, values: &[&str]) -> ApiResult<()> {
        // The web client mixes `orderOn` up with `sort` here and there.
        let is_direction = |text: &str| ["asc", "desc"].iter().any(|direction| text.eq_ignore_ascii_case(direction));
        match self.text(name) {
            Some(text) if !values.contains(&text) && !is_direction(text) => {
                Err(FieldError::new(name, Some(json!(text)))
                    .failing("isIn", format!("{name} must be one of the following values: {}", values.join(", ")))
                    .about(self.as_target())
                    .into_api_error())
            }
            _ => Ok(()),
        }
    }

    fn page_of(&self, limit: i64) -> ApiResult<Page> {
        Ok(Page {
            limit,
            offset: self.rows("offset")?.unwrap_or(0),
            order_on: self.text("orderOn").map(str::to_owned),
            is_descending: self.text("sort").is_some_and(|sort| sort.eq_ignore_ascii_case("desc")),
        })
    }

    fn as_target(&self) -> serde_json::Value {
        let number_of = |text: &str| text.trim().parse::<i64>().map_or(json!(null), |number| json!(number));
        let number = |name: &str, default: i64| {
            let sent: Vec<_> = self.0.iter().filter(|(n, _)| n == name).map(|(_, text)| number_of(text)).collect();
            match sent.len() {
                0 => json!(default),
                1 => sent.into_iter().collect::<serde_json::Value>()[0].take(),
                _ => sent.into_iter().collect(),
            }
        };
        let mut target: serde_json::Map<_, _> = self.0.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
        target.insert("limit".into(), number("limit", LIMIT_DEFAULT));
        target.insert("offset".into(), number("offset", 0));
        target.into()
    }
}

impl FromRequest for Query {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        ready(Ok(Self::parse(request.query_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_web_client_means_by_nothing_is_nothing() {
        let query = Query::parse(
            "limit=25&offset=undefined&sort=DESC&orderOn=null&owner=Teknik+%26+Milj%C3%B8&observe=response",
        );
        let page = query.page().unwrap();
        assert_eq!((page.limit, page.offset, page.is_descending, page.order_on), (25, 0, true, None));
        assert_eq!(query.text("owner"), Some("Teknik & Miljø"));
        assert_eq!(Query::parse("").page().unwrap(), Page::first(100));
    }

    #[test]
    fn a_page_is_bounded_and_never_negative() {
        let page = Query::parse("limit=100000&offset=5").page().unwrap();
        assert_eq!((page.limit, page.offset), (PAGE_LIMIT_MAX, 5));
        for negative in ["limit=-1", "limit=5&offset=-5"] {
            assert_eq!(Query::parse(negative).page().unwrap_err().status().as_u16(), 400, "{negative}");
        }
        assert_eq!(Query::parse("limit=0").page().unwrap().limit, PAGE_LIMIT_MAX, "0 is no limit, as in the reference");
        assert_eq!(Query::parse("limit=null").page_or_all().unwrap().limit, PAGE_LIMIT_MAX);
        assert_eq!(Query::parse("limit=1e300").page().unwrap().limit, PAGE_LIMIT_MAX);
    }

    #[test]
    fn a_limit_that_is_no_number_is_refused_in_the_references_words() {
        let error = Query::parse("limit=abc").page().unwrap_err();
        let item = &error.body()["message"][0];
        assert_eq!(item["property"], "limit");
        assert_eq!(item["constraints"]["isNumber"], "limit must be a number conforming to the specified constraints");
        assert_eq!(item["target"], json!({"limit": null, "offset": 0}));
        assert!(Query::parse("limit=1&limit=2").page().is_err(), "which of them?");
        assert_eq!(Query::parse("limit=1.5").page().unwrap().limit, 2);
        assert!(Query::parse("organizationId=1.5").int("organizationId").is_err());
    }

    #[test]
    fn what_the_reference_fails_over_is_a_callers_error() {
        assert!(Query::parse("orderOn=name").check_direction().is_err());
        for fine in ["orderOn=name&sort=asc", "orderOn=undefined", "sort=asc", "orderOn=name&sort=undefined"] {
            assert!(Query::parse(fine).check_direction().is_ok(), "{fine}");
        }
        assert!(Query::parse("orderOn=id;drop").check_among("orderOn", &["id"]).is_err());
        assert!(Query::parse("orderOn=null").check_among("orderOn", &["id"]).is_ok());
    }
}
