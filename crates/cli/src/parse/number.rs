//! Numbers, with a word on what they count where something else was typed.

use std::str::FromStr;

/// A whole number of `unit`, from zero on.
pub(crate) fn whole<Number: FromStr>(unit: &'static str) -> impl Fn(&str) -> Result<Number, String> + Clone {
    move |text| {
        let number = || text.parse().map_err(|_| "this is too large".to_owned());
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { number() } else { Err(format!("use a whole number of {unit}, such as 600")) }
    }
}

/// A number of processors, not checked any further.
pub(crate) fn processors(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "use a number of processors, such as 2 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_told_what_one_is() {
        let seconds = whole::<u32>("seconds");
        assert_eq!((seconds("0"), seconds("4294967295")), (Ok(0), Ok(u32::MAX)));
        assert_eq!(seconds("4294967296"), Err("this is too large".to_owned()));
        for bad in ["", "-1", "+1", "1.5", "5s", "soon"] {
            assert_eq!(seconds(bad), Err("use a whole number of seconds, such as 600".to_owned()), "{bad}");
        }
        assert_eq!(processors("0.5"), Ok(0.5));
        assert!(processors("two").unwrap_err().starts_with("use a number"));
    }
}
