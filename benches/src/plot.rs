//! Plots of series over time, as SVG that any browser shows: panels below one another, one second
//! or more to a point.

use std::fmt::Write;

/// One panel.
pub struct Panel<'a> {
    pub title: &'a str,
    pub unit: &'a str,
    /// One value each second.
    pub values: Vec<f64>,
    /// A line across, with its name.
    pub limit: Option<(&'a str, f64)>,
    pub logarithmic: bool,
}

const WIDTH: f64 = 900.0;
const PANEL_HEIGHT: f64 = 150.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TITLE_HEIGHT: f64 = 24.0;
const GAP: f64 = 28.0;
/// More points than this are joined, each the greatest of its stretch.
const POINTS_MAX: usize = 800;

/// The whole drawing.
pub fn svg(heading: &str, panels: &[Panel<'_>]) -> String {
    let height = 40.0 + panels.len() as f64 * (PANEL_HEIGHT + TITLE_HEIGHT + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(heading)
    );
    let mut top = 40.0;
    for panel in panels {
        draw(&mut out, panel, top);
        top += PANEL_HEIGHT + TITLE_HEIGHT + GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64) {
    let (bottom, right) = (top + TITLE_HEIGHT + PANEL_HEIGHT, WIDTH - RIGHT);
    let scale = Scale::of(panel);
    let text = |x: f64, y: f64, anchor: &str, text: &str| {
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            escaped(text)
        )
    };
    let title = format!("{}, {}", panel.title, panel.unit);
    out.push_str(&text(LEFT, top + 14.0, "start", &title));
    for value in scale.marks() {
        let y = bottom - scale.part(value) * PANEL_HEIGHT;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
        );
        out.push_str(&text(LEFT - 6.0, y + 4.0, "end", &number(value)));
    }
    let seconds = panel.values.len();
    for quarter in 0..=4 {
        let x = LEFT + (right - LEFT) * f64::from(quarter) / 4.0;
        let at = seconds as f64 * f64::from(quarter) / 4.0;
        out.push_str(&text(x, bottom + 15.0, "middle", &format!("{at:.0} s")));
    }
    if let Some((name, value)) = panel.limit {
        let y = bottom - scale.part(value) * PANEL_HEIGHT;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#c33\" \
             stroke-dasharray=\"5 3\"/>"
        );
        out.push_str(&text(right, y - 4.0, "end", name));
    }
    let stretch = seconds.div_ceil(POINTS_MAX).max(1);
    let points = panel.values.chunks(stretch).enumerate().map(|(index, values)| {
        let value = values.iter().copied().fold(f64::MIN, f64::max);
        let x = LEFT + (right - LEFT) * (index * stretch) as f64 / seconds.max(1) as f64;
        format!("{x:.1},{:.1}", bottom - scale.part(value) * PANEL_HEIGHT)
    });
    let points: Vec<String> = points.collect();
    let _ = writeln!(
        out,
        "<polyline fill=\"none\" stroke=\"#246\" stroke-width=\"1.2\" points=\"{}\"/>",
        points.join(" ")
    );
}

/// From values to heights.
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(panel: &Panel<'_>) -> Scale {
        let limit = panel.limit.map(|(_, value)| value);
        let most = panel.values.iter().copied().chain(limit).fold(0.0, f64::max).max(1e-9);
        match panel.logarithmic {
            false => Scale { least: 0.0, most: most * 1.05, logarithmic: false },
            true => {
                let least = panel.values.iter().copied().filter(|value| *value > 0.0);
                let least = least.fold(most, f64::min);
                let power = |value: f64| 10f64.powf(value);
                let (least, most) = (power(least.log10().floor()), power(most.log10().ceil()));
                Scale { least, most: most.max(least * 10.0), logarithmic: true }
            }
        }
    }

    /// The place of a value between bottom and top, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            false => value / self.most,
            true => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
        };
        part.clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.most / self.least).log10().round() as i32;
            return (0..=decades).map(|decade| self.least * 10f64.powi(decade)).collect();
        }
        // The round step of which three to six fit.
        let raw = self.most / 4.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
        let step = step.into_iter().find(|step| *step >= raw).unwrap_or(raw);
        (0..).map(|index| f64::from(index) * step).take_while(|mark| *mark <= self.most).collect()
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        v if v >= 10.0 || v == 0.0 => format!("{v:.0}"),
        v => format!("{v}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_in_the_drawing_and_the_peaks_stay() {
        let mut values = vec![1.0; 5000];
        values[4321] = 9.0;
        let panel = Panel {
            title: "a < b",
            unit: "s",
            values,
            limit: Some(("most", 8.0)),
            logarithmic: false,
        };
        let drawing = svg("heading", &[panel]);
        assert!(drawing.contains("a &lt; b, s") && drawing.contains("5000 s"));
        let points = drawing.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let heights = points.split(' ').map(|point| point.split(',').nth(1).unwrap());
        let mut heights: Vec<f64> = heights.map(|height| height.parse().unwrap()).collect();
        heights.sort_by(f64::total_cmp);
        assert!(heights.len() <= POINTS_MAX);
        assert!(heights[0] < heights[1] - 50.0, "the one peak stands out: {heights:?}");
    }

    #[test]
    fn logarithmic_marks_are_powers_of_ten_around_all_values() {
        let panel = Panel {
            title: "t",
            unit: "ms",
            values: vec![0.3, 40.0],
            limit: None,
            logarithmic: true,
        };
        let marks = Scale::of(&panel).marks();
        assert_eq!(
            marks.iter().map(|mark| number(*mark)).collect::<Vec<_>>(),
            ["0.1", "1", "10", "100"]
        );
    }
}
