package boot

// Clean is what text goes through on its way to the console.
var Clean = clean
