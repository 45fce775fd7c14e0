//! Curves on logarithmic axes.

use std::path::Path;

use oubliette_peers::figures::Point;
use plotters::prelude::*;

const COLOURS: [RGBColor; 8] = [
    RGBColor(120, 120, 120),
    RGBColor(200, 30, 30),
    RGBColor(240, 140, 40),
    RGBColor(40, 110, 190),
    RGBColor(60, 150, 80),
    RGBColor(140, 80, 170),
    RGBColor(0, 160, 170),
    RGBColor(120, 90, 60),
];

/// Draws one curve for each series.
pub fn draw(path: &Path, title: &str, x: &str, points: &[&Point]) {
    let range = |value: fn(&Point) -> f64| {
        let values = points.iter().map(|point| value(point));
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        low * 0.8..high * 1.25
    };
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(range(|point| point.x).log_scale(), range(|point| point.y).log_scale())
        .unwrap();
    chart.configure_mesh().x_desc(x).light_line_style(WHITE).draw().unwrap();
    let mut names: Vec<&str> = Vec::new();
    for point in points {
        if !names.contains(&point.series.as_str()) {
            names.push(&point.series);
        }
    }
    for (name, colour) in names.into_iter().zip(COLOURS.iter().cycle()) {
        let width = if name.starts_with("Oubliette") || name.starts_with("oubliette") { 3 } else { 1 };
        let style = colour.stroke_width(width);
        let curve = points.iter().filter(|point| point.series == name).map(|point| (point.x, point.y));
        chart
            .draw_series(LineSeries::new(curve, style))
            .unwrap()
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .unwrap();
    root.present().unwrap();
}
