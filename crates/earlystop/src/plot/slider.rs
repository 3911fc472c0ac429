//! Figures that a reader selects with a slider.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Figure;
use crate::display;
use crate::{Error, Result};

/// Shows one of several figures under the running notebook cell, with a slider to choose which; outside a notebook, does nothing.
///
/// Each figure has a label, such as the iteration that it belongs to. The first shown is the last of them. All figures and the few
/// lines of script are in the output, so that a saved page needs no other file. Where scripts are not run, the last figure is shown.
///
/// # Errors
///
/// [`Error::Data`] if there is no figure.
///
/// ```
/// # use earlystop::ndarray::Array4;
/// use earlystop::plot::{filter_grid, show_slider};
///
/// let figure = |size: f32| filter_grid(&Array4::from_elem([5, 5, 1, 16], size), 0);
/// show_slider(&[("iteration 100".to_owned(), figure(0.1)?), ("iteration 200".to_owned(), figure(0.2)?)])?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn show_slider(figures: &[(String, Figure)]) -> Result<()> {
    let Some((_, last)) = figures.last() else {
        return Err(Error::data("figures", "at least one", "none"));
    };
    display::show_html(&page(figures), &last.png(), last.size().0, last.alt());
    Ok(())
}

/// A slider, its label, and the figures, of which all but one are hidden.
fn page(figures: &[(String, Figure)]) -> String {
    let last = figures.len() - 1;
    // A page may have several sliders: each finds its own parts, and needs no names.
    let script = "let d=this.closest('div'),v=+this.value;\
        d.querySelectorAll('figure').forEach((f,i)=>{f.style.display=i===v?'block':'none'})";
    let mut page = format!(
        r#"<div><input type="range" aria-label="figure" min="0" max="{last}" value="{last}" style="width:20em" oninput="{script}">"#
    );
    for (index, (label, figure)) in figures.iter().enumerate() {
        let display = if index == last { "block" } else { "none" };
        let (label, alt) = (display::escaped(label), display::escaped(figure.alt()));
        let (width, png) = (figure.size().0, BASE64_STANDARD.encode(figure.png()));
        let _ = write!(
            page,
            r#"<figure style="display:{display};margin:0"><figcaption>{label}</figcaption><img width="{width}" alt="{alt}" src="data:image/png;base64,{png}"></figure>"#
        ); // writing to a string cannot fail
    }
    page + "</div>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::filter_grid;

    fn figure(size: f32) -> Figure {
        filter_grid(&ndarray::Array4::from_elem([5, 5, 1, 4], size), 0).unwrap()
    }

    #[test]
    fn one_of_the_figures_is_seen() {
        let page = page(&[("a \"<b>".to_owned(), figure(0.1)), ("second".to_owned(), figure(0.2))]);
        assert_eq!(page.matches("display:none").count(), 1);
        assert_eq!(page.matches("display:block").count(), 1);
        assert!(page.contains(r#"max="1" value="1""#), "{page}");
        assert!(page.contains("<figcaption>a &quot;&lt;b&gt;</figcaption>"), "{page}");
        assert!(page.find("second") > page.find("display:block"));
        assert!(!page.contains('\n'));
    }

    #[test]
    fn no_figures_are_refused() {
        assert_eq!(show_slider(&[]).unwrap_err().to_string(), "figures: expected at least one, found none");
        show_slider(&[("only".to_owned(), figure(0.1))]).unwrap();
    }
}
