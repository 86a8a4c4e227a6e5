"""What a run says: report.json and the summary on the terminal."""
