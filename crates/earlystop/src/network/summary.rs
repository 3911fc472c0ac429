//! The network as a table.

use std::fmt;

use super::Network;

/// A table with one line per layer: name, kind, shape of the output, number of parameters.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.layers().map(|(layer, output)| {
            let name = layer.name().unwrap_or("");
            let own = |variable: &&str| variable.rsplit_once('.').is_some_and(|(layer, _)| layer == name);
            let parameters = self.variables.names().filter(own).map(|name| self.variables.size(name)).sum::<usize>();
            [name.to_owned(), layer.kind().to_owned(), output.to_string(), thousands(parameters)]
        });
        let header = ["Layer", "Kind", "Output", "Parameters"].map(str::to_owned);
        let input = ["".to_owned(), "input".to_owned(), format!("{:?}", self.description.input), "0".to_owned()];
        let total = ["Total".to_owned(), String::new(), String::new(), thousands(self.num_parameters())];
        let rows = [header, input].into_iter().chain(rows).chain([total]).collect::<Vec<_>>();
        let widths = [0, 1, 2, 3].map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        let rule = "-".repeat(widths.iter().sum::<usize>() + 6);
        for (index, [name, kind, output, parameters]) in rows.iter().enumerate() {
            if index == 1 || index == rows.len() - 1 {
                writeln!(f, "{rule}")?;
            }
            let [w0, w1, w2, w3] = widths;
            write!(f, "{name:w0$}  {kind:w1$}  {output:w2$}  {parameters:>w3$}")?;
            if index < rows.len() - 1 {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::super::tests::tutorial;
    use tch::Device;

    #[test]
    fn the_table_reads_well() {
        let table = tutorial().build(Device::Cpu).unwrap().to_string();
        let expected = "\
Layer               Kind                Output        Parameters
----------------------------------------------------------------
                    input               [28, 28, 1]            0
layer_conv1         conv2d              [28, 28, 16]         416
                    max_pool            [14, 14, 16]           0
layer_conv2         conv2d              [14, 14, 36]      14,436
                    max_pool            [7, 7, 36]             0
                    flatten             [1764]                 0
layer_fc1           fully_connected     [128]            225,920
softmax_classifier  softmax_classifier  [10]               1,290
----------------------------------------------------------------
Total                                                    242,062";
        assert_eq!(table, expected);
    }
}
