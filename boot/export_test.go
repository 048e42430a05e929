package boot

// Clean is the function that cleans text for the console.
var Clean = clean
