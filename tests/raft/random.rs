use pgraft as _;
