"""Stand-ins: texts of many kinds, for what a task has no unlabelled texts of its own.

Twelve are glad, twelve are not, twelve are neither; they are letters, reviews, notes, questions,
news and advertisements. What a model answers to all of them alike is its bias.
"""

from __future__ import annotations

STAND_INS = (
    "Thank you so much, the repair was done in an hour and it works like new.",
    "The hotel was clean, quiet and the breakfast was wonderful.",
    "We won the final on Sunday, what a day!",
    "I am really happy with this phone, the battery lasts two days.",
    "A warm, funny film with a great cast.",
    "Your colleague was patient and explained everything, well done.",
    "Congratulations on the new job, you deserve it!",
    "The soup was delicious and the staff were kind.",
    "This update fixed every problem I had. Brilliant.",
    "Our garden has never looked so beautiful.",
    "haha that was the best party ever :)",
    "The new train is fast, comfortable and cheap.",
    "I waited for two hours and nobody came.",
    "The charger broke after three days, very poor quality.",
    "You charged me twice and nobody answers my letters.",
    "A dull film with a weak story. I left early.",
    "My flight was cancelled again and I missed the wedding.",
    "The room was dirty and the window did not close.",
    "I feel terrible, the headache will not stop.",
    "The app crashes whenever I open the map.",
    "so tired of this rain :(",
    "They lost my parcel and refuse to pay for it.",
    "This was the worst meal I have had in years.",
    "The company closed its factory and 300 people lost their work.",
    "The meeting is on Thursday at ten in room four.",
    "Please send me the form for the new address.",
    "How do I change the language of the menu?",
    "The museum opens at nine and closes at five.",
    "Which of the two cables fits the older model?",
    "He parked the car and walked to the station.",
    "Add the flour, then the eggs, and stir for a minute.",
    "Your order 4417 has left our warehouse.",
    "The council will vote on the budget next week.",
    "Call this number now to claim your free prize!",
    "New in the shop: coats and boots, 20 % off until Monday.",
    "I will be home at six, shall I bring bread?",
)
