//! What tokenizers does not check: a damaged or hostile file makes it panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Runs code of tokenizers. A panic there becomes an error.
pub(crate) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Err(format!("its file is damaged; the tokenizers library panicked: {text}").into())
    })
}

/// Reads a `tokenizer.json`.
pub(crate) fn read(bytes: &[u8]) -> Result<Tokenizer> {
    let tokenizer = guarded(|| Tokenizer::from_bytes(bytes)).map_err(Error::Syntax)?;
    let parts = [json(tokenizer.get_post_processor())?, json(tokenizer.get_pre_tokenizer())?];
    for part in &parts {
        check(part).map_err(|reason| Error::Syntax(reason.into()))?;
    }
    Ok(tokenizer)
}

pub(crate) fn json(part: Option<&impl Serialize>) -> Result<Value> {
    part.map_or(Ok(Value::Null), serde_json::to_value).map_err(|error| Error::Syntax(error.into()))
}

/// Refuses parts that cannot work, also inside of others.
fn check(part: &Value) -> std::result::Result<(), String> {
    match part {
        Value::Object(fields) => {
            match fields.get("type").and_then(Value::as_str) {
                Some("TemplateProcessing") => check_template(part)?,
                Some("FixedLength") if fields.get("length").and_then(Value::as_u64) == Some(0) => {
                    return Err("its FixedLength has length 0, expected 1 or more".to_owned());
                }
                _ => {}
            }
            fields.values().try_for_each(check)
        }
        Value::Array(parts) => parts.iter().try_for_each(check),
        _ => Ok(()),
    }
}

fn check_template(template: &Value) -> std::result::Result<(), String> {
    let pieces = |key: &str| template[key].as_array().into_iter().flatten();
    for piece in pieces("single").chain(pieces("pair")) {
        let Some(token) = piece["SpecialToken"]["id"].as_str() else { continue };
        let known = &template["special_tokens"][token];
        let count = |key: &str| known[key].as_array().map(Vec::len);
        if count("ids").is_none() || count("ids") != count("tokens") {
            return Err(format!(
                "its template has {token:?}, which its special_tokens do not define"
            ));
        }
    }
    if pieces("single").any(|piece| piece["Sequence"]["id"] == "B") {
        return Err("its template for single texts has a second text".to_owned());
    }
    Ok(())
}
