"""What all conversions share: open the sources, plan, account for every key, write, prove, record."""
